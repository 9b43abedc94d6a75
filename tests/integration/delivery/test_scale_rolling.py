"""All delivery nodes are restarted one after the other under five thousand sockets."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from schemas.problems import SERVICE_RESTART
from tests.integration.delivery.crowd import gathering
from tests.integration.delivery.raw import open_files
from tests.integration.delivery.stage import staged
from tests.until import scaled, until

pytestmark = pytest.mark.faults

V1, PLAIN = 3_500, 1_500
TICKETS = [f"T{n}" for n in range(100)]
RATE = 0.5  # messages a second and ticket: 2,500 deliveries a second
DRAIN_SECONDS = scaled(20)  # the default


async def test_a_rolling_restart_under_five_thousand_sockets_loses_and_doubles_nothing(
    own_folder: Path, redis_url: str, postgres_url: str
) -> None:
    """SIGTERM, drain, start again; then the next. Everybody moves, told to or closed with 1012, and misses nothing.

    Each node is done before its deadline and exits with 0.
    """
    # A moving reader has two connections for a moment; the node that is left takes all of them.
    with open_files(2 * (V1 + PLAIN) + 2_000):
        async with (
            staged(
                own_folder, redis_url, postgres_url, deliveries=2, TICKETWIRE_DRAIN_SECONDS=str(DRAIN_SECONDS)
            ) as stage,
            gathering(stage.ports) as crowd,
        ):
            for number in range(V1 + PLAIN):
                kind = "v1" if number % (V1 + PLAIN) < V1 else "plain"
                crowd.reader(kind, TICKETS[number % len(TICKETS)], f"u{number}")  # type: ignore[arg-type]
            await crowd.all_live()
            async with stage.sending(TICKETS, RATE):
                await until(lambda: all(reader.got for reader in crowd.readers), timeout_s=30)
                for node in stage.stack.deliveries:
                    crowd.ports = [other.port for other in stage.stack.deliveries if other is not node]
                    told = time.monotonic()
                    node.send(signal.SIGTERM)
                    assert await node.ended(timeout_s=DRAIN_SECONDS + 5) == 0
                    took = time.monotonic() - told
                    assert took < DRAIN_SECONDS, f"{node.name} took {took:.1f} s"
                    node.start()
                    await node.ready()
                    await crowd.all_live()
            await crowd.all_have(await stage.confirmed(TICKETS))
            v1, plain = crowd.of("v1"), crowd.of("plain")
            assert all(reader.asked_to_move >= 1 for reader in v1)
            assert all(set(reader.resumed) == {"full"} for reader in v1)
            assert {code for reader in plain for code in reader.codes} == {SERVICE_RESTART}
            assert all(reader.connections >= 2 for reader in crowd.readers)
            assert stage.complaints() == []
