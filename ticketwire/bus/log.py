"""Read a ticket's confirmed log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from schemas.entries import decode_confirmed
from schemas.events import Confirmed
from schemas.message_id import ZERO, MessageId
from ticketwire.bus.bus import Bus, checked

PAGE = 500  # entries a reply: larger ones hold the server and our memory


@dataclass(frozen=True, slots=True)
class LogPage:
    """Entries of a log after a position."""

    events: list[Confirmed]
    # Whether the log still holds the position itself, so that nothing between it and `events` is missing here.
    # When False the archive has what is missing.
    joined: bool


async def read_after(bus: Bus, ticket: str, position: MessageId, count: int = PAGE) -> LogPage:
    """Read up to *count* entries after *position*, and say whether the log reaches back to it."""
    key = bus.keys.log(ticket)
    entries = await bus.command(key, "XRANGE", key, str(position), "+", "COUNT", count + 1)
    joined = bool(entries) and entries[0][0] == str(position)
    events = [decode_confirmed(ticket, entry_id, fields) for entry_id, fields in entries[joined : count + joined]]
    return LogPage(events, joined)


async def top(bus: Bus, ticket: str) -> MessageId:
    """Return the id of the log's last entry, ZERO when there is no log."""
    return (await tops(bus, [ticket]))[0]


async def top_and_unsettled(bus: Bus, ticket: str) -> tuple[MessageId, MessageId | None]:
    """Return the id of the log's last entry, ZERO when there is none, and the oldest unsettled id of its partition.

    Everything before the latter was settled when the former was read: a partition is worked in order.
    """
    logged, stream = bus.keys.log(ticket), bus.keys.ingest(bus.keys.partition_of(ticket))
    replies = await bus.call(
        stream,
        ("XRANGE", stream, "-", "+", "COUNT", 1),  # first: what is settled between the two is then in the log
        ("XREVRANGE", logged, "+", "-", "COUNT", 1),
    )
    oldest, newest = (checked(reply) for reply in replies)
    return (
        MessageId.parse(newest[0][0]) if newest else ZERO,
        MessageId.parse(oldest[0][0]) if oldest else None,
    )


async def tops(bus: Bus, tickets: Sequence[str]) -> list[MessageId]:
    """Return the id of each log's last entry in the order of *tickets*, ZERO where there is no log.

    One exchange for all tickets of a server on one node; on Cluster one for each partition.
    """
    found: dict[str, MessageId] = {}
    place = bus.keys.partition_of if bus.keys.cluster else lambda _: 0
    for _, group in groupby(sorted(tickets, key=place), key=place):
        members = list(group)
        for start in range(0, len(members), PAGE):
            chunk = members[start : start + PAGE]
            logs = [bus.keys.log(ticket) for ticket in chunk]
            replies = await bus.call(logs[0], *(("XREVRANGE", log, "+", "-", "COUNT", 1) for log in logs))
            for ticket, reply in zip(chunk, replies, strict=True):
                entries = checked(reply)
                found[ticket] = MessageId.parse(entries[0][0]) if entries else ZERO
    return [found[ticket] for ticket in tickets]
