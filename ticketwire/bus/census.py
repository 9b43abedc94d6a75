"""Looks at everything in Redis, for `ticketwire verify`. Changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

from schemas import keys as names
from schemas.message_id import MessageId
from ticketwire.bus.bus import Bus, checked
from ticketwire.errors import SettingsError

_SCAN = 1_000
_PAGE = 200  # entries in one run of the script, each a look into the pending list


async def join(bus: Bus) -> None:
    """Do what `Bus.check` does, but never on a Redis on which no tier was started: that would found a deployment."""
    if await bus.command(names.META, "HGET", names.META, "partitions") is None:
        raise SettingsError("TICKETWIRE_REDIS_URL leads to a Redis on which nothing of ours was ever started")
    await bus.check()


async def tickets_with_log(bus: Bus, timeout_s: float) -> AsyncIterator[list[str]]:
    """Give the tickets that have a log, some at a time; one made meanwhile may be left out or come twice."""
    for node in await bus.topology.all_nodes():
        cursor = "0"
        while True:
            # The brace of a hash tag is a plain character to glob patterns of Redis.
            pattern = "chat:{*" if bus.keys.cluster else "chat:*"
            command = ("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN, "TYPE", "stream")
            (reply,) = await node.exchange([command], timeout_s)
            cursor, keys = checked(reply)
            tickets = [key.rpartition(":")[2] for key in keys]
            yield [ticket for key, ticket in zip(keys, tickets, strict=True) if bus.keys.log(ticket) == key]
            if cursor == "0":
                break


async def first_of_log(bus: Bus, ticket: str) -> MessageId | None:
    """Return the id of the oldest entry that a ticket's log still has."""
    key = bus.keys.log(ticket)
    entries = await bus.command(key, "XRANGE", key, "-", "+", "COUNT", 1)
    return MessageId.parse(entries[0][0]) if entries else None


async def stranded(bus: Bus, partition: int) -> list[str]:
    """Return the ids on a partition's stream that were read but are in nobody's hand."""
    stream, after, found = bus.keys.ingest(partition), "-", []
    while True:
        ((after, some),) = await bus.script("stranded", [stream], [names.GROUP, after, _PAGE])
        found += some
        if not after:
            return found


async def lies_on_stream(bus: Bus, partition: int, entry_id: str) -> bool:
    """Whether an entry is accepted and not yet settled."""
    stream = bus.keys.ingest(partition)
    return bool(await bus.command(stream, "XRANGE", stream, entry_id, entry_id))
