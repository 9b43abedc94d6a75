"""One partition's commands on every kind of Redis: the same promises on 6.2, 7.0, 8.2, Sentinel and Cluster."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence

import pytest

from schemas import keys as names
from schemas.entries import encode_confirmed, encode_submitted
from schemas.events import Confirmed, Submitted, event_tail
from schemas.message_id import MessageId
from ticketwire.bus import log
from ticketwire.bus.bus import Bus, open_bus
from ticketwire.bus.connection import GroupLost, Regressed
from ticketwire.bus.partition import Entry, Lease, LogRefused, Partition, Settlement, heartbeat, leave
from ticketwire.errors import Fenced, SettingsError
from ticketwire.settings import SharedSettings


def settings(url: str, **more: object) -> SharedSettings:
    return SharedSettings(redis_url=url, database_url="postgresql://unused", auth="off", **more)  # type: ignore[arg-type]


@pytest.fixture
async def a_bus(bus_url: str) -> AsyncIterator[Bus]:
    """A checked Bus on each kind of Redis in turn."""
    async with open_bus(settings(bus_url)) as bus:
        await bus.check()
        yield bus


@pytest.fixture
def partition(a_bus: Bus, bus_url: str) -> Partition:
    return Partition(a_bus, a_bus.keys.partition_of("T1"), settings(bus_url))


async def submit(bus: Bus, ticket: str, body: str) -> str:
    stream = bus.keys.ingest(bus.keys.partition_of(ticket))
    fields = encode_submitted(Submitted(ticket_id=ticket, sender_id="1", message=body))
    return str(await bus.command(stream, "XADD", stream, "*", *fields))


def shown(entries: Sequence[Entry], ticket: str = "T1") -> list[Settlement]:
    out = []
    for entry in entries:
        body = dict(zip(entry.fields[::2], entry.fields[1::2], strict=True))["message"]
        event = Confirmed(ticket, entry.id, "1", body, 1616690567)
        out.append(Settlement(entry.id, "log", ticket, event_tail(event), encode_confirmed(event)))
    return out


async def taken(partition: Partition, owner: str) -> Lease:
    """Take the lease and make the group, as an owner does."""
    lease = await partition.acquire(owner)
    assert isinstance(lease, Lease)
    await partition.recover(lease, "-", 500, takeover=True)
    return lease


async def bodies(bus: Bus, ticket: str = "T1") -> list[str]:
    return [e.message for e in (await log.read_after(bus, ticket, log.ZERO)).events]


async def expire(bus: Bus, partition: Partition) -> None:
    """Let the lease run out without waiting for the time to pass."""
    key = bus.keys.lease(partition.partition)
    await bus.command(key, "HSET", key, "expires", 1)


async def test_a_lease_has_one_holder_and_each_taking_its_own_epoch(a_bus: Bus, partition: Partition) -> None:
    first = await taken(partition, "a")
    wait_ms = await partition.acquire("b")
    assert isinstance(wait_ms, int)
    assert 0 < wait_ms <= 5_000
    assert await partition.release(first)
    second = await partition.acquire("b")
    assert isinstance(second, Lease)
    assert second.epoch > first.epoch
    with pytest.raises(Fenced):
        await partition.renew(first)
    await partition.renew(second)
    assert not await partition.release(first)


async def test_confirmed_entries_leave_the_stream_and_stand_in_the_log_under_their_ids(
    a_bus: Bus, partition: Partition
) -> None:
    lease = await taken(partition, "a")
    ids = [await submit(a_bus, "T1", f"m{n}") for n in range(3)]
    entries = await partition.read(lease, 500)
    assert [e.id for e in entries] == ids
    later = await submit(a_bus, "T1", "m3")
    confirmation = await partition.confirm(lease, shown(entries), then_read=10)
    assert [e.id for e in confirmation.entries] == [later], "the next entries come in the same call"
    page = await log.read_after(a_bus, "T1", log.ZERO)
    assert [e.message_id for e in page.events] == ids
    assert await a_bus.command(partition.stream, "XLEN", partition.stream) == 1
    assert str(await log.top(a_bus, "T1")) == ids[-1]


async def test_repeating_a_confirm_whose_reply_was_lost_changes_nothing(a_bus: Bus, partition: Partition) -> None:
    lease = await taken(partition, "a")
    for n in range(3):
        await submit(a_bus, "T1", f"m{n}")
    settlements = shown(await partition.read(lease, 500))
    await partition.confirm(lease, settlements)
    again = await partition.confirm(lease, settlements)
    assert again.renamed == []
    assert await bodies(a_bus) == ["m0", "m1", "m2"]


async def test_a_stale_owner_can_neither_read_nor_confirm(a_bus: Bus, partition: Partition) -> None:
    """The scripted schedule: A pauses before its read, B takes over, A wakes up in the middle of B's batch.

    With the confirm fenced but not the read, A's read would move the group's cursor: 10 of 40 messages came out of
    order and 10 were stranded in the pending list.
    """
    stale = await taken(partition, "a")
    for n in range(20):
        await submit(a_bus, "T1", f"{n:02d}")
    await expire(a_bus, partition)
    lease = await taken(partition, "b")
    in_hand = await partition.read(lease, 10)
    with pytest.raises(Fenced):
        await partition.read(stale, 10)
    with pytest.raises(Fenced):
        await partition.recover(stale, "-", 10, takeover=True)
    with pytest.raises(Fenced):
        await partition.confirm(stale, shown(in_hand), then_read=10)
    for n in range(20, 40):
        await submit(a_bus, "T1", f"{n:02d}")
    while in_hand:
        in_hand = (await partition.confirm(lease, shown(in_hand), then_read=10)).entries
    assert await bodies(a_bus) == [f"{n:02d}" for n in range(40)]
    assert await a_bus.command(partition.stream, "XLEN", partition.stream) == 0


async def test_a_new_owner_gets_what_the_last_one_had_in_hand_first(a_bus: Bus, partition: Partition) -> None:
    lease = await taken(partition, "a")
    ids = [await submit(a_bus, "T1", f"m{n}") for n in range(3)]
    await partition.read(lease, 2)
    await expire(a_bus, partition)
    successor = await partition.acquire("b")
    assert isinstance(successor, Lease)
    pending = await partition.recover(successor, "-", 500, takeover=True)
    assert [(p.id, p.deliveries) for p in pending] == [(ids[0], 1), (ids[1], 1)]
    again = await partition.recover(successor, "-", 500, takeover=False)
    assert [p.deliveries for p in again] == [2, 2], "the takeover counts as a delivery, the re-read does not"
    assert [e.id for e in await partition.read(successor, 500)] == [ids[2]]


async def test_entries_under_a_foreign_consumer_name_are_taken_over(a_bus: Bus, partition: Partition) -> None:
    lease = await taken(partition, "a")
    entry_id = await submit(a_bus, "T1", "read by a stranger")
    await a_bus.command(
        partition.stream, "XREADGROUP", "GROUP", names.GROUP, "stranger", "STREAMS", partition.stream, ">"
    )
    assert await partition.read(lease, 500) == []
    pending = await partition.recover(lease, "-", 500, takeover=True)
    assert [p.id for p in pending] == [entry_id]


async def test_an_entry_deleted_while_pending_is_let_go(a_bus: Bus, partition: Partition) -> None:
    lease = await taken(partition, "a")
    entry_id = await submit(a_bus, "T1", "m")
    await partition.read(lease, 500)
    await a_bus.command(partition.stream, "XDEL", partition.stream, entry_id)
    (pending,) = await partition.recover(lease, "-", 500, takeover=False)
    assert pending.fields is None
    assert await partition.recover(lease, "-", 500, takeover=False) == []


async def test_a_lost_group_is_noticed_and_made_again_without_skipping_anything(
    a_bus: Bus, partition: Partition
) -> None:
    lease = await taken(partition, "a")
    ids = [await submit(a_bus, "T1", f"m{n}") for n in range(2)]
    await a_bus.command(partition.stream, "XGROUP", "DESTROY", partition.stream, names.GROUP)
    with pytest.raises(GroupLost):
        await partition.read(lease, 500)
    assert await partition.recover(lease, "-", 500, takeover=False) == []
    assert [e.id for e in await partition.read(lease, 500)] == ids


async def test_an_entry_acknowledged_by_hand_but_not_settled_comes_again(a_bus: Bus, partition: Partition) -> None:
    """XACK alone would leave it on the stream for ever, with no fate."""
    lease = await taken(partition, "a")
    entry_id = await submit(a_bus, "T1", "m")
    await partition.read(lease, 500)
    await a_bus.command(partition.stream, "XACK", partition.stream, names.GROUP, entry_id)
    assert await partition.recover(lease, "-", 500, takeover=True) == []
    assert [e.id for e in await partition.read(lease, 500)] == [entry_id]


async def test_buried_entries_lie_under_their_own_id_byte_for_byte(a_bus: Bus, partition: Partition) -> None:
    lease = await taken(partition, "a")
    stream = partition.stream
    entry_id = await a_bus.command(stream, "XADD", stream, "*", "message", b"\xff\xfe raw", "ticket_id", "T1")
    (entry,) = await partition.read(lease, 500)
    letter = ["entry_id", entry.id, "fields", json.dumps(entry.fields)]
    await partition.confirm(lease, [Settlement(entry.id, "dead", fields=letter)])
    dead = a_bus.keys.dead(partition.partition)
    ((letter_id, stored),) = await a_bus.command(dead, "XRANGE", dead, "-", "+")
    assert letter_id == entry_id
    kept = json.loads(dict(zip(stored[::2], stored[1::2], strict=True))["fields"])
    assert kept[1].encode("utf-8", "surrogateescape") == b"\xff\xfe raw"
    assert await a_bus.command(stream, "XLEN", stream) == 0


async def test_an_id_the_log_refuses_is_appended_under_a_new_one_and_reported(a_bus: Bus, partition: Partition) -> None:
    """Happens when Redis lost its newest ids and a clock stepped back: the message must not be dropped."""
    key = a_bus.keys.log("T1")
    await a_bus.command(key, "XADD", key, "9999999999999-0", "sender_id", "1", "message", "ahead", "timestamp", "1")
    lease = await taken(partition, "a")
    entry_id = await submit(a_bus, "T1", "behind")
    confirmation = await partition.confirm(lease, shown(await partition.read(lease, 500)))
    ((old, new),) = confirmation.renamed
    assert old == entry_id
    assert await bodies(a_bus) == ["ahead", "behind"]
    assert str(await log.top(a_bus, "T1")) == new


async def test_a_log_of_another_type_costs_its_own_message_only(a_bus: Bus, partition: Partition) -> None:
    other = next(f"T{n}" for n in range(2, 500) if a_bus.keys.partition_of(f"T{n}") == partition.partition)
    lease = await taken(partition, "a")
    await submit(a_bus, other, "first")
    await submit(a_bus, "T1", "second")
    key = a_bus.keys.log("T1")
    await a_bus.command(key, "SET", key, "not a stream")
    entries = await partition.read(lease, 500)
    settlements = shown(entries[:1], other) + shown(entries[1:])
    with pytest.raises(LogRefused) as caught:
        await partition.confirm(lease, settlements)
    assert caught.value.entry_id == entries[1].id
    await partition.confirm(lease, [settlements[0], Settlement(entries[1].id, "dead", fields=["reason", "x"])])
    assert await bodies(a_bus, other) == ["first"], "confirmed before the refusal, and only once"
    assert await a_bus.command(partition.stream, "XLEN", partition.stream) == 0


async def test_a_cancelled_wait_takes_nothing_from_the_stream(a_bus: Bus, partition: Partition) -> None:
    lease = await taken(partition, "a")
    waiting = asyncio.create_task(partition.wait("0-0", 10))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    entry_id = await submit(a_bus, "T1", "m")
    assert [e.id for e in await partition.wait("0-0", 10)] == [entry_id]
    assert [e.id for e in await partition.read(lease, 500)] == [entry_id], "the wait moved no cursor"


async def test_scripts_survive_a_flush_of_the_script_cache(a_bus: Bus, partition: Partition) -> None:
    lease = await taken(partition, "a")
    for node in await a_bus.topology.all_nodes():
        await node.exchange([("SCRIPT", "FLUSH")], 5)
    await submit(a_bus, "T1", "m")
    await partition.confirm(lease, shown(await partition.read(lease, 500)))
    assert await bodies(a_bus) == ["m"]


async def test_workers_hear_of_each_other_and_of_a_leaving_one_at_once(a_bus: Bus) -> None:
    assert await heartbeat(a_bus, "a", 5_000) == ["a"]
    assert sorted(await heartbeat(a_bus, "b", 5_000)) == ["a", "b"]
    await leave(a_bus, "a")
    assert await heartbeat(a_bus, "b", 5_000) == ["b"]


async def test_a_confirmed_event_reaches_its_channels_with_its_predecessor(a_bus: Bus, partition: Partition) -> None:
    """The bare id for the tutorial's subscribers, the full event for delivery nodes."""
    connection = await a_bus.open(a_bus.keys.events("T1"))
    sharded = a_bus.features.sharded_pubsub
    try:
        await connection.send_command("SSUBSCRIBE" if sharded else "SUBSCRIBE", a_bus.keys.events("T1"))
        await connection.read_response()
        await connection.send_command("SUBSCRIBE", a_bus.keys.channel("T1"))
        await connection.read_response()
        lease = await taken(partition, "a")
        ids = [await submit(a_bus, "T1", f"m{n}") for n in range(2)]
        await partition.confirm(lease, shown(await partition.read(lease, 500)))
        heard = [await connection.read_response(timeout=5) for _ in range(4)]
    finally:
        await connection.disconnect()
    events = [json.loads(m[2]) for m in heard if m[1] == a_bus.keys.events("T1")]
    assert [(e["type"], e["prev_id"], e["message_id"]) for e in events] == [
        ("message", "0-0", ids[0]),
        ("message", ids[0], ids[1]),
    ]
    assert [m[2] for m in heard if m[1] == a_bus.keys.channel("T1")] == ids


async def test_another_number_of_partitions_is_refused_and_both_are_named(a_bus: Bus, bus_url: str) -> None:
    async with open_bus(settings(bus_url, partitions=32)) as other:
        with pytest.raises(SettingsError, match=r"is 32.*started with 16"):
            await other.check()


async def test_confirming_works_while_redis_is_over_its_memory_limit(redis_url: str) -> None:
    """Settling frees memory: were it refused for want of memory, a full Redis would stay full."""
    async with open_bus(settings(redis_url)) as bus:
        await bus.check()
        partition = Partition(bus, bus.keys.partition_of("T1"), settings(redis_url))
        lease = await taken(partition, "a")
        await submit(bus, "T1", "m")
        entries = await partition.read(lease, 500)
        try:
            await bus.command("x", "CONFIG", "SET", "maxmemory", 1)
            await partition.renew(lease)
            await partition.confirm(lease, shown(entries))
        finally:
            await bus.command("x", "CONFIG", "SET", "maxmemory", 0)
        assert await bodies(bus) == ["m"]


async def test_an_owner_that_settled_more_than_redis_remembers_is_told_so(a_bus: Bus, partition: Partition) -> None:
    """A promoted replica holds a prefix: with this lease, without its last confirm. Going on would hide the loss."""
    lease = await taken(partition, "a")
    for body in ("m0", "m1"):
        await submit(a_bus, "T1", body)
    settlements = shown(await partition.read(lease, 500))
    known = MessageId.parse(settlements[0].id)
    with pytest.raises(Regressed):
        await partition.confirm(lease, settlements[1:], known=known)
    assert await bodies(a_bus) == []
    await partition.confirm(lease, settlements[:1])
    await partition.confirm(lease, settlements[1:], known=known)
    await partition.confirm(lease, settlements[1:], known=known)  # a repeat, its first reply lost
    assert await bodies(a_bus) == ["m0", "m1"]
