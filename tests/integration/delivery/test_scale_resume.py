"""A reader that was away during five thousand messages gets all of them, whatever it reads with."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.integration.delivery.crowd import gathering
from tests.integration.delivery.stage import staged
from tests.until import until
from ticketwire.client.client import Client
from ticketwire.client.subscription import Subscription

pytestmark = pytest.mark.faults

MISSED = 5_000


@pytest.mark.parametrize(("log_entries", "in_log"), [(10_000, MISSED), (300, 1_000)], ids=["in the log", "archived"])
async def test_five_thousand_missed_messages_come_in_full_in_order_and_once(
    own_folder: Path, redis_url: str, postgres_url: str, log_entries: int, in_log: int
) -> None:
    """Sent by HTTP while all were away; with a log that keeps a few hundred, most of it comes from PostgreSQL.

    v1 by its position, v1 by its device alone (a page loaded anew), the Python client, a plain socket and a stream.
    """
    async with (
        staged(own_folder, redis_url, postgres_url, TICKETWIRE_LOG_ENTRIES=str(log_entries)) as stage,
        gathering(stage.ports) as crowd,
    ):
        (first,) = await stage.send("7", ["first"])
        position = crowd.reader("v1", "7", "position")
        device = crowd.reader("v1", "7", "device", device="laptop")
        crowd.reader("plain", "7", "plain")
        crowd.reader("sse", "7", "sse")
        await crowd.all_have({"7": [first]})

        async def acknowledged(at: str) -> bool:
            return await stage.acknowledged("7", "device", "laptop") == at

        await until(lambda: acknowledged(first))
        for reader in crowd.readers:
            reader.leave()
        sent = await stage.send("7", (f"missed {n}" for n in range(MISSED)))
        key = stage.bus.keys.log("7")
        assert len(sent) == MISSED
        assert await stage.bus.command(key, "XLEN", key) <= in_log + 1

        device.forget_position()
        for reader in crowd.readers:
            reader.come()
        async with Client(f"http://127.0.0.1:{stage.ports[0]}", user="python", device="d") as client:
            found: list[str] = []
            reading = asyncio.create_task(read(client.subscribe("7", since=first), found))
            await crowd.all_have({"7": [first, *sent]})
            (live,) = await stage.send("7", ["live"])
            await crowd.all_have({"7": [first, *sent, live]})
            await until(lambda: len(found) > MISSED)
            assert found == [*sent, live]
            reading.cancel()
        assert [reader.resumed for reader in (position, device)] == [["full", "full"]] * 2
        assert device.repeats == 0  # it had acknowledged what it had
        await until(lambda: acknowledged(live))
        assert stage.complaints() == []


async def read(subscription: Subscription, found: list[str]) -> None:
    async for event in subscription:
        assert event.kind != "reset"
        if event.kind == "message":
            found.append(event.message_id)
