"""From SIGTERM to exit, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

BEFORE = """
import asyncio, sys
from contextlib import asynccontextmanager
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from starlette.applications import Starlette
from ticketwire.errors import SettingsError
from ticketwire.lifecycle import Lifecycle, run_tier, settle_gc
from ticketwire.serving import bind, http_server, port_of, uvicorn_config
from ticketwire.settings import SharedSettings

class KioskSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="KIOSK_")
    port: int = Field(default=0, ge=0, le=9)
    shared: SharedSettings = Field(default_factory=SharedSettings)

def say(*words): print(*words, file=sys.stderr, flush=True)
"""
AFTER = "\nsys.exit(run_tier('kiosk', KioskSettings, serve))\n"
ENV = {
    "TICKETWIRE_REDIS_URL": "redis://localhost",
    "TICKETWIRE_DATABASE_URL": "postgresql://localhost",
    "TICKETWIRE_AUTH": "off",
    "TICKETWIRE_DRAIN_SECONDS": "0.5",
}


def start(code: str, **env: str) -> subprocess.Popen[str]:
    """A tier whose `serve` is *code*."""
    return subprocess.Popen(
        [sys.executable, "-c", BEFORE + textwrap.dedent(code) + AFTER],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **ENV, **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(tier: subprocess.Popen[str], *signals: signal.Signals) -> tuple[int, list[str]]:
    """Send each signal after one line from the tier; give exit code and the other lines."""
    assert tier.stderr is not None
    with tier, tier.stderr:
        for number in signals:
            assert tier.stderr.readline()
            tier.send_signal(number)
        lines = tier.stderr.read().splitlines()
        return tier.wait(timeout=20), lines


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_tier_drain_and_leave_in_order(number: signal.Signals) -> None:
    """Exit code 0, and a deadline to plan by."""
    tier = start("""
    async def serve(settings, lifecycle):
        assert lifecycle.deadline is None
        say("up")
        await lifecycle.stopping.wait()
        await asyncio.sleep(0.05)
        say("drained", 0.2 < lifecycle.remaining() < 0.5)
    """)
    assert finish(tier, number) == (0, ["drained True"])


def test_a_drain_past_its_deadline_is_cancelled_and_told_by_the_exit_code() -> None:
    """`finally` blocks still run: leases are released even then."""
    tier = start("""
    async def serve(settings, lifecycle):
        say("up")
        try:
            await asyncio.sleep(600)
        finally:
            say("released")
    """)
    assert finish(tier, signal.SIGTERM) == (124, ["released"])


def test_what_ignores_its_cancellation_is_ended_by_force() -> None:
    """A tier never outlives its deadline by more than two seconds."""
    tier = start("""
    async def serve(settings, lifecycle):
        say("up")
        while True:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                say("no")
    """)
    assert finish(tier, signal.SIGTERM) == (124, ["no"])


def test_a_second_signal_ends_it_at_once() -> None:
    """Ctrl-C twice is how people say that they will not wait."""
    tier = start(
        """
    async def serve(settings, lifecycle):
        say("up")
        await lifecycle.stopping.wait()
        say("draining")
        await asyncio.sleep(600)
    """,
        TICKETWIRE_DRAIN_SECONDS="600",
    )
    assert finish(tier, signal.SIGTERM, signal.SIGINT) == (130, [])


def test_a_wrong_setting_is_one_line_and_code_2() -> None:
    """Before the loop starts, and when it is found out later, in the depths of task groups."""
    late = start("""
    async def serve(settings, lifecycle):
        async with asyncio.TaskGroup() as group:
            raise SettingsError("TICKETWIRE_PARTITIONS is 3, Redis says 16")
    """)
    assert finish(late) == (2, ["ticketwire kiosk: TICKETWIRE_PARTITIONS is 3, Redis says 16"])
    early = start("serve = None", KIOSK_PORT="10")
    assert finish(early) == (2, ["ticketwire kiosk: KIOSK_PORT is '10': Input should be less than or equal to 9"])


def test_a_fault_is_code_1_and_a_log_line() -> None:
    """Not a bare traceback: collectors read stdout."""
    tier = start("""
    async def serve(settings, lifecycle):
        raise RuntimeError("bug")
    """)
    assert finish(tier) == (1, [])


def test_a_lifespan_that_fails_ends_the_tier_under_its_own_name() -> None:
    """uvicorn alone would exit with 3 and a traceback; a SettingsError must stay one line."""
    tier = start("""
    @asynccontextmanager
    async def lifespan(app):
        raise SettingsError("KIOSK_PORT is odd")
        yield

    async def serve(settings, lifecycle):
        config = uvicorn_config(Starlette(lifespan=lifespan))
        async with http_server(config, bind("127.0.0.1", 0, "KIOSK_PORT"), lifecycle):
            say("never")
    """)
    assert finish(tier) == (2, ["ticketwire kiosk: KIOSK_PORT is odd"])


def test_a_background_task_that_dies_in_the_lifespan_ends_the_tier() -> None:
    """A server that goes on answering without its background work would be worse than none."""
    tier = start("""
    async def boom():
        await asyncio.sleep(0.01)
        raise RuntimeError("bug")

    @asynccontextmanager
    async def lifespan(app):
        async with asyncio.TaskGroup() as group:
            group.create_task(boom())
            yield

    async def serve(settings, lifecycle):
        config = uvicorn_config(Starlette(lifespan=lifespan))
        async with http_server(config, bind("127.0.0.1", 0, "KIOSK_PORT"), lifecycle):
            say("up")
            await lifecycle.stopping.wait()
    """)
    assert finish(tier) == (1, ["up"])


def test_settled_garbage_collection_keeps_the_start_out_of_it() -> None:
    """What lives for ever is not walked again and again."""
    tier = start("""
    async def serve(settings, lifecycle):
        import gc
        settle_gc()
        say(gc.get_freeze_count() > 10_000, gc.get_threshold())
    """)
    assert finish(tier) == (0, ["True (50000, 50, 1000)"])
