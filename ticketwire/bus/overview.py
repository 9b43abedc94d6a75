"""What partitions and workers do now, for people and the autoscaler."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import MovedError, ResponseError

from schemas import keys as names
from schemas.message_id import MessageId
from ticketwire.bus.bus import Bus, checked
from ticketwire.bus.connection import GroupLost, translate
from ticketwire.errors import Unavailable


@dataclass(frozen=True, slots=True)
class PartitionView:
    """One look at a partition."""

    partition: int
    at_ms: int  # Redis TIME of this look
    backlog: int  # entries accepted and not yet settled
    pending: int  # of these, read by the owner
    oldest_at_ms: int | None  # when the oldest of the backlog was accepted; None without a backlog
    owner: str  # '' when nobody has the lease
    epoch: int
    lease_ends_at_ms: int  # 0 when it was given back or never taken
    done: str  # the watermark
    settled: int  # entries settled since the lease's hash exists: what rates are made of
    dead: int  # dead letters
    entries_added: int | None  # entries ever put on the stream; None on Redis 6.2

    @property
    def owned(self) -> bool:
        return self.owner != "" and self.lease_ends_at_ms > self.at_ms


async def partitions(bus: Bus) -> list[PartitionView]:
    """Look at every partition; each by itself is of one moment."""
    return list(await asyncio.gather(*(partition_view(bus, p) for p in range(bus.keys.partitions))))


async def partition_view(bus: Bus, partition: int) -> PartitionView:
    """Look at one partition."""
    stream, lease, dead = bus.keys.ingest(partition), bus.keys.lease(partition), bus.keys.dead(partition)
    replies = await bus.call(
        stream,
        ("XLEN", stream),  # on Redis Cluster this one is redirected, which a transaction is not
        ("MULTI",),
        ("TIME",),
        ("XLEN", stream),
        ("XRANGE", stream, "-", "+", "COUNT", 1),
        ("HMGET", lease, "owner", "epoch", "expires", "done", "settled"),
        ("XLEN", dead),
        ("XPENDING", stream, names.GROUP),
        ("XINFO", "STREAM", stream),
        ("EXEC",),
    )
    for reply in replies:
        if isinstance(reply, MovedError):
            raise Unavailable("Redis: a partition is moving to another node of the Cluster")
        checked(reply)
    time, backlog, oldest, held, letters, pending, info = replies[-1]
    for reply in (time, backlog, oldest, held, letters):
        checked(reply)
    return PartitionView(
        partition=partition,
        at_ms=int(time[0]) * 1000 + int(time[1]) // 1000,
        backlog=backlog,
        pending=int(_unless_missing(pending, [0])[0]),
        oldest_at_ms=MessageId.parse(oldest[0][0]).ms if oldest else None,
        owner=held[0] or "",
        epoch=int(held[1] or 0),
        lease_ends_at_ms=int(held[2] or 0),
        done=held[3] or "0-0",
        settled=int(held[4] or 0),
        dead=letters,
        entries_added=_entries_added(bus, _unless_missing(info, [])),
    )


def _unless_missing(reply: Any, otherwise: Any) -> Any:
    """Before a worker's first visit there is no group, and before the first message no stream."""
    if isinstance(reply, ResponseError):
        if isinstance(translate(reply), GroupLost) or "no such key" in str(reply):
            return otherwise
        raise translate(reply) from reply
    return reply


def _entries_added(bus: Bus, info: Sequence[Any]) -> int | None:
    if bus.features.version < (7, 0):
        return None
    return int(dict(zip(info[::2], info[1::2], strict=True)).get("entries-added", 0))


async def workers(bus: Bus) -> tuple[int, list[tuple[str, int]]]:
    """Return Redis's time and, for each worker that said that it lives, until when that holds; both in ms."""
    time, found = [checked(r) for r in await bus.call(names.WORKERS, ("TIME",), _WORKERS)]
    now = int(time[0]) * 1000 + int(time[1]) // 1000
    return now, [(name, round(float(until))) for name, until in zip(found[::2], found[1::2], strict=True)]


_WORKERS = ("ZRANGE", names.WORKERS, 0, -1, "WITHSCORES")


@dataclass(frozen=True, slots=True)
class Place:
    """Where Redis has a message, at one moment."""

    on_stream: bool  # accepted and not yet settled
    deliveries: int  # how often it was handed to a worker and is still in hand; 0 when it is not
    read_at_ms: int | None  # the last time, while it is in hand
    in_log: bool


async def place(bus: Bus, ticket: str, message_id: MessageId) -> Place:
    """Look for a message of *ticket* on its ingest stream and in its log."""
    stream, log, at = bus.keys.ingest(bus.keys.partition_of(ticket)), bus.keys.log(ticket), str(message_id)
    replies = await bus.call(
        stream,
        ("XRANGE", stream, at, at),
        ("XPENDING", stream, names.GROUP, at, at, 1),
        ("TIME",),
    )
    (entries, pending, time), shown = replies, await bus.command(log, "XRANGE", log, at, at)
    fields = checked(entries)[0][1] if checked(entries) else []
    ours = dict(zip(fields[::2], fields[1::2], strict=True)).get("ticket_id") == ticket
    held = _unless_missing(pending, []) if ours else []
    now = int(checked(time)[0]) * 1000 + int(time[1]) // 1000
    return Place(ours, held[0][3] if held else 0, now - held[0][2] if held else None, bool(shown))
