"""A tier is ready when everything it needs says so."""

from __future__ import annotations

import logging

import pytest

from ticketwire.telemetry.health import Health


def test_nothing_reported_is_not_ready() -> None:
    """A tier that has just started must not get traffic by forgetting its checks."""
    assert not Health().ready
    assert Health("redis").report()["checks"] == [{"name": "redis", "ok": False, "reason": "has not reported yet"}]


def test_ready_means_all_checks_and_not_draining() -> None:
    """One failing check, or the drain, is enough."""
    health = Health("redis", "postgres")
    health.set("redis", True)
    assert not health.ready
    health.set("postgres", True)
    assert health.ready
    health.set("redis", False, "connection refused")
    assert not health.ready
    assert health.report()["checks"][1] == {"name": "redis", "ok": False, "reason": "connection refused"}
    health.forget("redis")
    assert health.ready
    health.draining = True
    assert not health.ready


def test_an_outage_is_two_lines_however_often_it_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """One when it starts, one when it ends, with its length."""
    now = 100.0
    health = Health(now=lambda: now)
    caplog.set_level(logging.INFO)
    health.set("redis", True)
    for now in (101.0, 102.0, 103.0):
        health.set("redis", False, f"reason at {now}")
    now = 107.5
    health.set("redis", True)
    health.set("redis", True)
    events = [(record.message, record.__dict__.get("failed_seconds")) for record in caplog.records]
    assert events == [("check failed", None), ("check is well", 6.5)]
