"""Everything that no client may do, by many clients at once, on a node that has others to serve."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.integration.delivery.crowd import gathering
from tests.integration.delivery.hostile import ATTACKS, Hostile
from tests.integration.delivery.raw import open_files
from tests.integration.delivery.stage import rss_bytes, staged
from tests.until import until
from ticketwire.client.client import Client
from ticketwire.client.subscription import Subscription

pytestmark = pytest.mark.faults

EACH = 10  # clients that do the same at the same time
GOOD = 20
RATE = 10.0
MEMORY = 60_000_000


async def test_what_no_client_may_do_harms_nobody_else(own_folder: Path, redis_url: str, postgres_url: str) -> None:
    """Each is told why by an error frame or a close code; the others get every message in order meanwhile.

    Afterwards nothing is left behind: no room, no socket, no fault in the log, no memory to speak of.
    """
    with open_files(4_000):
        async with (
            staged(own_folder, redis_url, postgres_url, DELIVERY_LINGER_SECONDS="0") as stage,
            gathering(stage.ports) as crowd,
        ):
            node = stage.stack.deliveries[0]
            for number in range(GOOD):
                crowd.reader("v1", "good", f"u{number}")
            await crowd.all_live()
            before = rss_bytes(node)
            async with stage.sending(["good", "quiet"], RATE):
                hostile = [Hostile(attack) for attack in ATTACKS for _ in range(EACH)]
                await asyncio.gather(*(one.come(node.port) for one in hostile))
                await answered(hostile)
                had = max(len(reader.got) for reader in crowd.readers)
                await until(lambda: all(len(reader.got) > had for reader in crowd.readers))
            for one in hostile:
                one.leave()
            assert {one.verdict for one in hostile} == {""}
            await crowd.all_have(await stage.confirmed(["good"]))
            assert all(reader.connections == 1 for reader in crowd.readers)

            async def only_the_others_are_left() -> bool:
                return [await node.metric(f"delivery_{kind}") for kind in ("sessions", "rooms")] == [GOOD, 1]

            await until(only_the_others_are_left)
            assert rss_bytes(node) - before < MEMORY
            assert stage.complaints() == []


async def test_a_socket_with_thousands_of_tickets_gets_the_messages_of_all(
    own_folder: Path, redis_url: str, postgres_url: str
) -> None:
    """Where it may have so many; they share one window, far smaller than their number. Nothing is left behind."""
    tickets = [f"t{n}" for n in range(2_000)]
    settings = {"DELIVERY_MAX_TICKETS": str(len(tickets)), "DELIVERY_LINGER_SECONDS": "0"}
    async with staged(own_folder, redis_url, postgres_url, **settings) as stage:
        node = stage.stack.deliveries[0]
        sent = await stage.send_each((ticket, f"{text} to {ticket}") for text in ("one", "two") for ticket in tickets)
        async with Client(f"http://127.0.0.1:{node.port}", user="anna") as client:
            got: dict[str, list[str]] = {ticket: [] for ticket in tickets}
            readings = [asyncio.create_task(read(client.subscribe(ticket, since="0-0"), got[ticket])) for ticket in got]

            async def all_are_there() -> bool:
                return await node.metric("delivery_rooms") == len(tickets)

            await until(all_are_there, timeout_s=30, every_s=0.1)
            sent += await stage.send_each((ticket, f"live to {ticket}") for ticket in tickets)
            await until(lambda: sum(map(len, got.values())) >= len(sent), timeout_s=30)
        await asyncio.gather(*readings)  # the client's end ended them
        wanted: dict[str, list[str]] = {}
        for ticket, message_id in zip(tickets * 3, sent, strict=True):
            wanted.setdefault(ticket, []).append(message_id)
        assert got == wanted

        async def nothing_is_left() -> bool:
            return await node.metric("delivery_rooms") == 0

        await until(nothing_is_left)
        assert stage.complaints() == []


async def read(subscription: Subscription, found: list[str]) -> None:
    async for event in subscription:
        if event.kind == "message":
            found.append(event.message_id)


async def answered(hostile: list[Hostile]) -> None:
    """Wait until everybody was told what there is to tell."""
    try:
        await until(lambda: all(one.answered for one in hostile), timeout_s=30, every_s=0.05)
    except AssertionError:
        pytest.fail(f"not answered: { {str(one) for one in hostile if not one.answered} }")
