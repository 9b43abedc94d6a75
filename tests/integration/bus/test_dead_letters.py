"""Dead letters on every kind of Redis: found, sent once, removed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from schemas.message_id import MessageId
from ticketwire.bus.bus import Bus, open_bus
from ticketwire.bus.dead_letters import DeadLetters
from ticketwire.bus.overview import partition_view, partitions, workers
from ticketwire.bus.partition import Partition, dead_letter, heartbeat
from ticketwire.errors import Rejected
from ticketwire.settings import SharedSettings


@pytest.fixture
def settings(bus_url: str) -> SharedSettings:
    return SharedSettings(redis_url=bus_url, database_url="postgresql://127.0.0.1:1/x", auth="off", partitions=4)  # type: ignore[call-arg,arg-type]


@pytest.fixture
async def a_bus(settings: SharedSettings) -> AsyncIterator[Bus]:
    async with open_bus(settings) as bus:
        await bus.check()
        yield bus


async def bury(bus: Bus, entry_id: str, *fields: str, at: str | None = None) -> None:
    letter = dead_letter(
        entry_id, fields, Rejected("poison", "x"),
        stage="worker", attempts=5, first_at_ms=1, last_at_ms=2, worker="w",
    )  # fmt: skip
    await bus.command(bus.keys.dead(1), "XADD", bus.keys.dead(1), at or entry_id, *letter)


async def test_four_at_once_send_each_letter_once_and_hear_the_same_new_id(a_bus: Bus) -> None:
    dead = DeadLetters(a_bus)
    for n in range(1, 21):
        await bury(a_bus, f"{n}-0", "ticket_id", "T1", "sender_id", "1", "message", f"m{n}")
    letters = await dead.page(1)
    results = await asyncio.gather(*(dead.send(1, letters, f"by {n}") for n in range(4)))
    assert all(result == results[0] for result in results)
    entries = await a_bus.command(a_bus.keys.ingest(1), "XRANGE", a_bus.keys.ingest(1), "-", "+")
    assert [entry_id for entry_id, _ in entries] == [sent.new_id for sent in results[0] if sent]
    assert [fields[5:] for _, fields in entries] == [[f"m{n}", "original_id", f"{n}-0"] for n in range(1, 21)]
    assert await dead.page(1) == []
    assert list(await dead.unrecorded(1)) == [letter.id for letter in letters]
    await dead.forget(1, [letter.id for letter in letters])
    assert await dead.send(1, letters, "late") == [None] * 20


async def test_bytes_that_are_no_text_are_sent_as_they_were(a_bus: Bus) -> None:
    """Written by a producer of its own, buried as undecodable, sent again."""
    strange = [one.decode("utf-8", "surrogateescape") for one in (b"\xff\xfe", b"a\x00b", b"", b"\xc3\xa9")]
    await bury(a_bus, "1-0", *strange)
    await DeadLetters(a_bus).send(1, await DeadLetters(a_bus).page(1), "x")
    ((_, fields),) = await a_bus.command(a_bus.keys.ingest(1), "XRANGE", a_bus.keys.ingest(1), "-", "+")
    assert fields == strange


async def test_a_letter_that_was_replaced_meanwhile_is_not_sent_in_the_others_name(a_bus: Bus) -> None:
    """The digest says that what lies there is not what was read."""
    dead = DeadLetters(a_bus)
    await bury(a_bus, "1-0", "ticket_id", "T1", "sender_id", "1", "message", "old")
    letters = await dead.page(1)
    await a_bus.command(a_bus.keys.dead(1), "DEL", a_bus.keys.dead(1))
    await bury(a_bus, "1-0", "ticket_id", "T1", "sender_id", "1", "message", "new")
    assert await dead.send(1, letters, "x") == [None]
    assert len(await dead.page(1)) == 1


async def test_a_letter_under_a_later_id_is_found_by_its_entry(a_bus: Bus) -> None:
    """The stream of letters had run ahead of its entry."""
    for n in range(150):
        await bury(a_bus, f"{n + 100}-0", "a", "b")
    await bury(a_bus, "50-0", "a", "b", at="999-7")
    found = await DeadLetters(a_bus).of_entry(1, MessageId(50, 0))
    assert found is not None
    assert (found.id, found.entry_id, found.name) == ("999-7", "50-0", "01:999-7")
    assert await DeadLetters(a_bus).of_entry(1, MessageId(51, 0)) is None


async def test_removing_tells_which_were_there(a_bus: Bus) -> None:
    for n in (1, 2):
        await bury(a_bus, f"{n}-0", "a", "b")
    assert await DeadLetters(a_bus).remove(1, ["1-0", "9-0"]) == {"1-0"}
    assert await DeadLetters(a_bus).counts() == [0, 1, 0, 0]


async def test_an_overview_counts_what_is_there_before_and_after_the_first_worker(
    a_bus: Bus, settings: SharedSettings
) -> None:
    """No stream, no group, no lease: that is not an error."""
    views = await partitions(a_bus)
    assert [(v.backlog, v.pending, v.owned, v.settled) for v in views] == [(0, 0, False, 0)] * 4
    stream = a_bus.keys.ingest(2)
    await a_bus.command(stream, "XADD", stream, "7-0", "a", "b")
    view = await partition_view(a_bus, 2)
    assert (view.backlog, view.pending, view.oldest_at_ms) == (1, 0, 7)
    partition = Partition(a_bus, 2, settings)
    lease = await partition.acquire("w-1")
    assert not isinstance(lease, int)
    await partition.recover(lease, "-", 10, takeover=True)
    await partition.read(lease, 10)
    await heartbeat(a_bus, "w-1", 60_000)
    view = await partition_view(a_bus, 2)
    assert (view.pending, view.owner, view.owned, view.epoch) == (1, "w-1", True, 1)
    assert view.entries_added == (None if a_bus.features.version < (7, 0) else 1)
    now, live = await workers(a_bus)
    assert [name for name, until in live if until > now] == ["w-1"]
