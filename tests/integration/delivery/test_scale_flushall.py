"""Redis forgets everything while readers of all kinds are connected and messages keep coming."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.integration.delivery.crowd import gathering
from tests.integration.delivery.reader import Kind
from tests.integration.delivery.stage import staged
from tests.until import until

pytestmark = pytest.mark.faults

TICKETS = [f"T{n}" for n in range(10)]
KINDS: tuple[Kind, ...] = ("v1", "plain", "sse")
PER_KIND = 3  # readers of each kind in each ticket
RATE = 10.0  # messages a second and ticket
ROUNDS = 2


async def test_after_flushall_every_client_has_all_that_was_confirmed_in_order(
    own_folder: Path, redis_url: str, postgres_url: str
) -> None:
    """FLUSHALL, twice: no v1 client sees a gap, nobody is told `reset`, nobody gets anything twice."""
    async with (
        staged(own_folder, redis_url, postgres_url, deliveries=2, workers=2) as stage,
        gathering(stage.ports) as crowd,
        Redis.from_url(redis_url) as redis,
    ):
        for ticket in TICKETS:
            for kind in KINDS:
                for number in range(PER_KIND):
                    crowd.reader(kind, ticket, f"{kind}{number}", device="d")
        await crowd.all_live()
        async with stage.sending(TICKETS, RATE):
            for _ in range(ROUNDS):
                await until(lambda: all(reader.got for reader in crowd.readers), timeout_s=30)
                await redis.flushall()
                flushed = {ticket: len(ids) for ticket, ids in (await stage.confirmed(TICKETS)).items()}
                # Messages that were accepted after it come out at the other end, in every ticket and at every reader.
                await until(
                    lambda: all(len(r.got) >= flushed[r.ticket] + RATE for r in crowd.readers),  # noqa: B023
                    timeout_s=60,
                )
        confirmed = await stage.confirmed(TICKETS)
        await crowd.all_have(confirmed)
        assert all(len(ids) >= ROUNDS * RATE for ids in confirmed.values())
        assert all(set(reader.resumed) == {"full"} for reader in crowd.of("v1"))
        assert all(reader.resumed == [] for reader in crowd.of("sse"))
        assert crowd.codes() == {}
