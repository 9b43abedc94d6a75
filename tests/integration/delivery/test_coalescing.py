"""Busy rooms hold events for a moment so that several share a write: nothing is lost, late or out of order by it."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from websockets.asyncio.client import connect

from delivery import metrics, pacing
from delivery.app import drain
from tests.integration.delivery.conftest import StartTier
from tests.integration.delivery.harness import Tier
from tests.integration.delivery.v1 import v1
from tests.until import scaled, until


@pytest.fixture
def _all_rooms_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A share so small that each flush uses up more than it."""
    monkeypatch.setattr(pacing, "WRITES_PER_SECOND", 0.01)


def held() -> float:
    return metrics.HELD._value.get()  # type: ignore[no-any-return]


@pytest.mark.usefixtures("_all_rooms_are_busy")
async def test_plain_v1_and_sse_get_every_event_in_order_while_readers_come_and_go(tier: Tier) -> None:
    """All three kinds in one busy room; one more reader after each message, live or with a position."""
    before = held()
    first = await tier.client("?ticket_id=7")
    session = await v1(tier, resume={"7": None})
    await session.one("subscribed")
    streamed: list[str] = []

    async def stream() -> None:
        async with (
            httpx.AsyncClient(timeout=scaled(10)) as http,
            http.stream("GET", f"{tier.http}/sse/7?since=0-0") as response,
        ):
            async for line in response.aiter_lines():
                if line.startswith("id: "):
                    streamed.append(line.removeprefix("id: "))

    reading = asyncio.create_task(stream())
    await until(lambda: streamed)  # `caught_up`
    sent, late = [], []
    for number in range(30):
        sent.append(await tier.worker.send("7", f"m{number}"))
        if number % 3 == 0:
            late.append((await tier.client(f"?ticket_id=7&since={sent[0].message_id}"), 1))
        elif number % 3 == 1:
            late.append((await tier.client("ws/7"), number + 1))
    ids = [event.message_id for event in sent]
    await first.until(30)
    await session.until_events(30)
    await until(lambda: len(streamed) >= 31)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert first.ids == session.ids() == streamed[1:] == ids
    assert session.in_order("7")
    for client, start in late:
        await client.until(30 - start)
        assert client.ids == ids[start:]
    assert held() > before


@pytest.mark.usefixtures("_all_rooms_are_busy")
async def test_a_draining_node_keeps_nothing_back(tier: Tier) -> None:
    """What is held when the node begins to close is written before the close."""
    clients = [await tier.client("?ticket_id=7") for _ in range(3)]
    sent = [await tier.worker.send("7", f"m{number}") for number in range(10)]
    await until(lambda: tier.node.rooms._rooms["7"].position == sent[-1].position, every_s=0)
    await drain(tier.node, scaled(1))
    for client in clients:
        await client.until(10)
        assert client.texts == [f"m{number}" for number in range(10)]
        await client.socket.wait_closed()
        assert client.socket.close_code == 1012


async def test_a_quiet_room_holds_nothing(tier: Tier) -> None:
    """At the defaults, with as many messages as people write."""
    before = held()
    client = await tier.client("?ticket_id=7")
    for number in range(20):
        await tier.worker.send("7", f"m{number}")
    await client.until(20)
    assert held() == before


@pytest.mark.usefixtures("_all_rooms_are_busy")
async def test_0_turns_it_off(start_tier: StartTier) -> None:
    """However busy."""
    before = held()
    tier = await start_tier(coalesce_ms=0)
    async with connect(f"{tier.url}/?ticket_id=7") as socket:
        for _ in range(10):
            await tier.worker.send("7")
        for _ in range(10):
            await socket.recv()
    assert held() == before
