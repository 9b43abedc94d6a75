"""accept.lua and its caller on every kind of Redis: 6.2, 7.0, 8.2, Sentinel and Cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from schemas.entries import encode_submitted
from schemas.events import Submitted
from schemas.message_id import MessageId
from tests.integration.ingest.harness import settings_of
from tests.servers import RedisKind, RedisServers
from ticketwire.bus.accept import Acceptor, Offer, is_pending
from ticketwire.bus.bus import Bus, open_bus
from ticketwire.bus.load import measure
from ticketwire.errors import Rejected, Unavailable

TICKET = "12345"


@pytest.fixture
async def a_bus(bus_url: str) -> AsyncIterator[Bus]:
    async with open_bus(settings_of(bus_url).shared) as bus:
        await bus.check()
        yield bus


@pytest.fixture
def acceptor(a_bus: Bus, bus_url: str) -> Acceptor:
    return Acceptor(a_bus, settings_of(bus_url).shared, retry_ms=5_000, remember_ms=60_000)


def offer(bus: Bus, text: str, key: str = "", ticket: str = TICKET) -> Offer:
    partition = bus.keys.partition_of(ticket)
    full = bus.keys.idempotency(partition, ticket, "1", key) if key else ""
    fields = encode_submitted(Submitted(ticket_id=ticket, sender_id="1", message=text))
    return Offer(partition, full, text.replace(" ", "-") if key else "", fields)


async def texts(bus: Bus, ticket: str = TICKET) -> list[str]:
    stream = bus.keys.ingest(bus.keys.partition_of(ticket))
    entries = await bus.command(stream, "XRANGE", stream, "-", "+")
    return [dict(zip(fields[::2], fields[1::2], strict=True))["message"] for _, fields in entries]


async def test_a_group_is_stored_in_order(a_bus: Bus, acceptor: Acceptor) -> None:
    """Ids ascend, and each is pending from then on."""
    answers = await acceptor.accept("t1", [offer(a_bus, f"{n}") for n in range(500)])
    ids = [MessageId.parse(str(answer)) for answer in answers]
    assert ids == sorted(set(ids))
    assert await texts(a_bus) == [str(n) for n in range(500)]
    assert await is_pending(a_bus, TICKET, ids[7])
    assert not await is_pending(a_bus, "another", ids[7])
    assert not await is_pending(a_bus, TICKET, MessageId(1, 0))


async def test_a_repeat_under_the_same_token_stores_nothing(a_bus: Bus, acceptor: Acceptor) -> None:
    """It gets the first call's answers, refusals included."""
    await acceptor.accept("t0", [offer(a_bus, "first", "k")])
    offers = [offer(a_bus, "a"), offer(a_bus, "b"), offer(a_bus, "second", "k")]
    first = await acceptor.accept("t1", offers)
    again = await acceptor.accept("t1", offers)
    assert [str(answer) for answer in again] == [str(answer) for answer in first]
    assert isinstance(first[2], Rejected)
    assert await texts(a_bus) == ["first", "a", "b"]
    assert await acceptor.accept("t2", offers[:1]) != first[:1], "another token is another call"


async def test_a_key_within_one_group_holds_too(a_bus: Bus, acceptor: Acceptor) -> None:
    """Twice the same message is one, another text under the key is a conflict that names the first."""
    offers = [offer(a_bus, "a", "k"), offer(a_bus, "a", "k"), offer(a_bus, "b", "k"), offer(a_bus, "c")]
    first, same, other, bystander = await acceptor.accept("t1", offers)
    assert first == same
    assert isinstance(other, Rejected)
    assert str(first) in other.detail
    assert isinstance(bystander, str)
    assert await texts(a_bus) == ["a", "c"]


async def test_keys_do_not_outlive_their_time(a_bus: Bus, acceptor: Acceptor) -> None:
    """The internal key lives twice the retry window, the caller's as long as it was told to."""
    one = offer(a_bus, "a", "k")
    await acceptor.accept("t1", [one])
    batch = a_bus.keys.batch(one.partition, "t1")
    assert 9_000 < await a_bus.command(batch, "PTTL", batch) <= 10_000
    assert 59_000 < await a_bus.command(one.key, "PTTL", one.key) <= 60_000


async def test_a_refused_stream_is_refused_alone(a_bus: Bus, acceptor: Acceptor, bus: RedisServers) -> None:
    """A key of another type, first in the group: on one node the other partition's message is stored all the same."""
    stream = a_bus.keys.ingest(a_bus.keys.partition_of(TICKET))
    await a_bus.command(stream, "SET", stream, "in the way")
    other = next(f"t{n}" for n in range(99) if a_bus.keys.partition_of(f"t{n}") != a_bus.keys.partition_of(TICKET))
    offers = (
        [offer(a_bus, "a")] if bus.kind is RedisKind.CLUSTER else [offer(a_bus, "a"), offer(a_bus, "b", ticket=other)]
    )
    refused, *stored = await acceptor.accept("t1", offers)
    assert isinstance(refused, Unavailable)
    assert "WRONGTYPE" in refused.detail
    assert all(isinstance(answer, str) for answer in stored)
    with pytest.raises(Unavailable, match="WRONGTYPE"):
        await measure(a_bus, 5.0)


async def test_a_full_redis_refuses_the_group_as_a_whole(a_bus: Bus, acceptor: Acceptor) -> None:
    """Nothing is written, so the same call may be repeated, and then stores everything once."""
    for node in await a_bus.topology.all_nodes():
        await node.exchange([("CONFIG", "SET", "maxmemory", 1)], 5.0)
    offers = [offer(a_bus, "a", "k"), offer(a_bus, "b")]
    try:
        with pytest.raises(Unavailable, match="OOM"):
            await acceptor.accept("t1", offers)
        assert (await measure(a_bus, 5.0)).memory > 1.0
    finally:
        for node in await a_bus.topology.all_nodes():
            await node.exchange([("CONFIG", "SET", "maxmemory", 0)], 5.0)
    assert await texts(a_bus) == []
    await acceptor.accept("t1", offers)
    assert await texts(a_bus) == ["a", "b"]


async def test_the_backlog_of_every_partition_is_seen(a_bus: Bus, acceptor: Acceptor) -> None:
    """Wherever its stream lies; memory without a limit counts as empty."""
    expected = [0] * a_bus.keys.partitions
    for n in range(30):
        one = offer(a_bus, "a", ticket=f"t{n}")
        expected[one.partition] += 1
        await acceptor.accept(f"token{n}", [one])
    load = await measure(a_bus, 5.0)
    assert (list(load.backlog), load.memory) == (expected, 0.0)
