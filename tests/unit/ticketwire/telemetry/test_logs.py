"""Log lines are JSON, one a line, whatever is logged."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from ticketwire.telemetry import logs


@pytest.fixture
def lines() -> Iterator[Any]:
    """Logging as a tier sets it up; gives the lines so far."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    logs.setup("kiosk", "info", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line_has_event_level_time_tier_and_the_extras(lines: Any) -> None:
    """`event` is constant text; what varies has fields of its own."""
    logging.getLogger("a.b").warning("entry buried", extra={"ticket": "12", "code": "undecodable"})
    (line,) = lines()
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "tier": "kiosk",
        "event": "entry buried",
        "logger": "a.b",
        "ticket": "12",
        "code": "undecodable",
    }


def test_an_error_is_one_line_with_its_traceback(lines: Any) -> None:
    """A collector must not see one error as forty lines."""
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logging.exception("failed")
    (line,) = lines()
    assert line["error"] == "ValueError: first\nsecond"
    assert "test_logs.py" in line["traceback"]


@pytest.mark.parametrize("value", [object(), b"\xff", "\ud800", {1, 2}, "a\nb", float("nan")])
def test_no_value_breaks_the_stream(lines: Any, value: object) -> None:
    """Logging must never be what ends a tier."""
    logging.getLogger().error("odd", extra={"value": value})
    assert len(lines()) == 1


def test_an_extra_cannot_pose_as_one_of_the_fixed_fields(lines: Any) -> None:
    """`level` in a line is always ours."""
    logging.getLogger().error("odd", extra={"level": "debug", "tier": "other"})
    (line,) = lines()
    assert (line["level"], line["tier"], line["level_"], line["tier_"]) == ("error", "kiosk", "debug", "other")


def test_warnings_and_level_are_taken_care_of(lines: Any) -> None:
    """Python's warnings are lines too; what is below the level is not written."""
    logging.getLogger().debug("quiet")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    (line,) = lines()
    assert "DeprecationWarning: old" in line["event"]
