"""One partition's life: lease, fenced read, recovery, confirm."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from redis.exceptions import ResponseError

from schemas import keys as names
from schemas.message_id import ZERO, MessageId
from ticketwire.bus.bus import Bus, checked
from ticketwire.bus.connection import Argument
from ticketwire.errors import Rejected, TicketwireError
from ticketwire.settings import SharedSettings

BLOCK_MS = 10_000  # one wait for new entries; it has no side effect, so stopping may cut it short
BLOCK_MARGIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work a partition, proven to the scripts by `token`."""

    partition: int
    owner: str
    epoch: int
    done: str  # the watermark when the lease was taken: newest settled entry id

    @property
    def token(self) -> str:
        return f"{self.owner}:{self.epoch}"


class Entry(NamedTuple):
    """An entry of an ingest stream, not yet understood."""

    id: str
    fields: list[str]  # field, value, field, value …; bytes that are not UTF-8 stand as lone surrogates


@dataclass(frozen=True, slots=True)
class Pending:
    """An entry that was read but not settled."""

    id: str
    fields: list[str] | None  # None: deleted by someone else meanwhile
    deliveries: int  # how often it was handed out, this time not counted


class Settlement(NamedTuple):
    """What becomes of one entry."""

    id: str
    kind: Literal["log", "change", "dead", "none"]
    ticket: str = ""
    event: str = ""  # `schemas.events.event_tail`, for "log" and "change"
    fields: Sequence[str] = ()  # of the log entry or of the dead letter; a change's first is `target_id`
    fate: str = ""  # for metrics: confirmed, masked, held, rejected, or why it was buried


@dataclass(frozen=True, slots=True)
class Confirmation:
    renamed: list[tuple[str, str]]  # (refused id, id it was appended under): rare, see confirm.lua
    entries: list[Entry]  # the next ones, read in the same call


class LogRefused(Rejected):
    """A ticket's log cannot take an entry: bury that entry and confirm again."""

    def __init__(self, entry_id: str, detail: str) -> None:
        super().__init__("log_refused", detail)
        self.entry_id = entry_id


def dead_letter(
    entry_id: str,
    fields: Sequence[str],
    error: TicketwireError,
    *,
    stage: str,
    attempts: int,
    first_at_ms: int,
    last_at_ms: int,
    worker: str,
) -> list[str]:
    """Return the fields of a dead letter: the envelope, and the original fields byte for byte as JSON.

    Bytes that are not UTF-8 are lone surrogates in *fields* and `\\udcXX` in the JSON, so they can be restored.
    """
    trace = dict(zip(fields[::2], fields[1::2], strict=False)).get("trace_id", "")
    return [
        "entry_id", entry_id, "reason", error.code, "error", error.detail, "error_class", type(error).__name__,
        "stage", stage, "attempts", str(attempts), "first_at_ms", str(first_at_ms), "last_at_ms", str(last_at_ms),
        "worker", worker, "trace_id", trace if trace.isascii() else "", "fields", json.dumps(list(fields)),
    ]  # fmt: skip


class Partition:
    """The commands on one partition's keys."""

    def __init__(self, bus: Bus, partition: int, settings: SharedSettings) -> None:
        self.partition = partition
        self._bus = bus
        keys = bus.keys
        self.stream = keys.ingest(partition)
        self._lease = keys.lease(partition)
        self._dead = keys.dead(partition)
        self._confirm_head: tuple[Argument, ...] = (
            names.GROUP,
            names.CONSUMER,
            keys.log_prefix(partition),
            keys.channel_prefix(partition),
            "SPUBLISH" if bus.features.sharded_pubsub else "PUBLISH",
            settings.log_entries,
            settings.log_days * 86_400_000,
        )
        self._ttl_ms = settings.lease_ttl_ms

    async def acquire(self, owner: str) -> Lease | int:
        """Take the lease; return it, or the ms until it can be taken."""
        ((epoch, rest),) = await self._bus.script("acquire", [self._lease], [owner, self._ttl_ms])
        return Lease(self.partition, owner, int(epoch), rest) if int(epoch) else int(rest)

    async def renew(self, lease: Lease) -> None:
        """Keep the lease for another TTL. Raises Fenced when another holds it."""
        await self._bus.script("renew", [self._lease], [lease.token, self._ttl_ms])

    async def release(self, lease: Lease) -> bool:
        """Give the lease back; False when it was not ours any more."""
        (released,) = await self._bus.script("release", [self._lease], [lease.token])
        return bool(released)

    async def read(self, lease: Lease, count: int) -> list[Entry]:
        """Return up to *count* new entries. Raises Fenced, GroupLost, Unavailable.

        After any other outcome than a returned list the entries may lie in the pending list: `recover`.
        """
        (entries,) = await self._bus.script(
            "read", [self.stream, self._lease], [lease.token, names.GROUP, names.CONSUMER, count]
        )
        return [Entry(entry_id, fields) for entry_id, fields in entries]

    async def recover(self, lease: Lease, after: str, count: int, *, takeover: bool) -> list[Pending]:
        """Return what was read but never settled, after the id *after* (`-` from the start), in id order.

        Makes stream and group when they are missing. *takeover* says that the last owner died with these in
        hand, which counts as a delivery; a living owner's own re-read does not.
        """
        ((_created, pending),) = await self._bus.script(
            "recover",
            [self.stream, self._lease],
            [lease.token, names.GROUP, names.CONSUMER, after, count, int(takeover)],
        )
        return [Pending(entry_id, fields or None, deliveries) for entry_id, deliveries, fields in pending]

    async def count_attempt(self, lease: Lease, entry_id: str, deliveries: int) -> None:
        """Store how often an entry has been handed out."""
        args: list[Argument] = [lease.token, names.GROUP, names.CONSUMER, entry_id, deliveries]
        await self._bus.script("attempt", [self.stream, self._lease], args)

    async def confirm(
        self, lease: Lease, settlements: Sequence[Settlement], *, then_read: int = 0, known: MessageId = ZERO
    ) -> Confirmation:
        """Settle entries, which must be in id order, and read up to *then_read* new ones.

        *known* is the newest id that the caller knows to be settled. Repeating it after Unavailable is safe: what was
        settled is skipped. Raises Fenced, Unavailable, Regressed when Redis has forgotten that *known* was settled, and
        LogRefused with the entry to bury instead.
        """
        only_here = int(not self._bus.keys.cluster)
        args: list[Argument] = [lease.token, *self._confirm_head, then_read, only_here, str(known)]
        for s in settlements:
            args += (s.id, s.kind, s.ticket, s.event, len(s.fields), *s.fields)
        try:
            ((renamed, entries),) = await self._bus.script("confirm", [self.stream, self._lease, self._dead], args)
        except ResponseError as exc:
            if "REFUSED " not in str(exc):
                raise
            entry_id, _, why = str(exc).partition("REFUSED ")[2].partition(" ")
            raise LogRefused(entry_id, why) from exc
        return Confirmation([(old, new) for old, new in renamed], [Entry(i, fields) for i, fields in entries])

    async def watermark(self) -> MessageId:
        """Return the newest settled id that Redis remembers."""
        return MessageId.parse(await self._bus.command(self._lease, "HGET", self._lease, "done") or "0-0")

    async def absent(self, ids: Sequence[str]) -> set[str]:
        """Return those of *ids* (at most a few hundred) that do not lie on the ingest stream."""
        replies = await self._bus.call(self.stream, *(("XRANGE", self.stream, i, i) for i in ids))
        return {i for i, reply in zip(ids, replies, strict=True) if not checked(reply)}

    async def advance(self, lease: Lease, newest: MessageId) -> bool:
        """Give out ids above *newest* from now on; True when the stream was behind it."""
        (moved,) = await self._bus.script("advance", [self.stream, self._lease], [lease.token, str(newest)])
        return bool(moved)

    async def wait(self, after: str, count: int) -> list[Entry]:
        """Wait for entries after *after* and return up to *count*; none after BLOCK_MS in vain.

        A plain XREAD without the group: it moves no cursor, so it needs no fence and may be cancelled. Only for an
        owner that has settled everything up to *after*: what it gets is then the next in order, and a round
        trip through `read` is saved.
        """
        reply = await self._bus.block(
            self.stream,
            "XREAD", "COUNT", count, "BLOCK", BLOCK_MS, "STREAMS", self.stream, after,
            timeout=BLOCK_MS / 1000 + BLOCK_MARGIN_S,
        )  # fmt: skip
        return [Entry(entry_id, fields) for entry_id, fields in reply[0][1]] if reply else []


async def heartbeat(bus: Bus, worker: str, ttl_ms: int) -> list[str]:
    """Say that *worker* lives for another *ttl_ms*; return all live workers."""
    (live,) = await bus.script("heartbeat", [names.WORKERS], [worker, ttl_ms])
    return list(live)


async def leave(bus: Bus, worker: str) -> None:
    """Say that *worker* stops, so that the others divide its partitions at once."""
    await bus.command(names.WORKERS, "ZREM", names.WORKERS, worker)
