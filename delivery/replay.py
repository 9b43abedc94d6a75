"""Catch up one reader and make it live, as one operation: no gap, no race, nothing twice."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Protocol

from delivery import metrics
from delivery.backlog import Backlog
from delivery.events import Encoding, Event
from delivery.fanout import WRITE_BYTES, Writer
from delivery.room import Room
from schemas.message_id import MessageId
from ticketwire.errors import Unavailable

log = logging.getLogger(__name__)

BACKOFF_BASE_S = 0.1
BACKOFF_CAP_S = 5.0


def backoff(rng: random.Random, attempt: int) -> float:
    """Seconds to wait before try *attempt* + 1: full jitter, so that readers do not come in step."""
    return rng.uniform(0, min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2 ** min(attempt, 10)))


class Reader(Protocol):
    """Somebody who catches up and can be waited for."""

    @property
    def closing(self) -> bool:
        """Nothing can be written any more."""

    async def ready(self) -> None:
        """Wait until it can take more, or is closing."""

    def take(self, events: Sequence[Event], after: MessageId) -> int:
        """Write as many of *events*, which follow *after*, as it can take without waiting; return how many."""

    def join(self, room: Room) -> None:
        """Be live from now on."""


class SlowWriter(Writer, Protocol):
    """A socket or stream that can be waited for."""

    @property
    def closing(self) -> bool: ...

    @property
    def paused(self) -> bool: ...

    async def drained(self) -> None: ...


class PreparedReader:
    """A reader without acknowledgements: a plain socket or an SSE stream."""

    def __init__(self, writer: SlowWriter, encoding: Encoding) -> None:
        self._writer = writer
        self._encoding = encoding

    @property
    def closing(self) -> bool:
        return self._writer.closing

    async def ready(self) -> None:
        await self._writer.drained()

    def take(self, events: Sequence[Event], after: MessageId) -> int:
        taken = 0
        while taken < len(events) and not self._writer.paused and not self._writer.closing:
            piece, size = [], 0
            while taken < len(events) and size < WRITE_BYTES:
                piece.append(events[taken].frame(self._encoding))
                size += len(piece[-1])
                taken += 1
            self._writer.write(b"".join(piece))
        return taken

    def join(self, room: Room) -> None:
        room.join(self._writer, self._encoding)


class Replay:
    """Catch-ups of this node, which share a budget of pages in memory."""

    def __init__(self, backlog: Backlog, pages: int, rng: random.Random | None = None) -> None:
        self._backlog = backlog
        self._budget = asyncio.Semaphore(pages)
        self._rng = rng or random.Random()

    async def run(self, room: Room, reader: Reader, since: MessageId) -> None:
        """Write *reader* everything after *since*, then make it live. Returns at once when it closes.

        Waits while the reader is slow, Redis or PostgreSQL is away, or the budget is used up; a reader that is
        waited for holds no page, it is read again.
        """
        cursor, attempt = since, 0
        while not reader.closing:
            rest = room.recent_after(cursor)
            if rest is not None:
                # No await from here to `join`: what was written before ends exactly where the live events begin.
                taken = reader.take(rest, cursor)
                metrics.REPLAYED.inc(taken)
                if taken == len(rest):
                    if not reader.closing:
                        reader.join(room)
                    return
                cursor = rest[taken - 1].at if taken else cursor
            else:
                try:
                    async with self._budget:
                        cursor = await self._page(room, reader, cursor)
                    attempt = 0
                except Unavailable as exc:
                    if attempt == 0:
                        metrics.OUTAGES.inc()
                        log.warning("catch-up waits", extra={"ticket": room.ticket, "reason": exc.detail})
                    await asyncio.sleep(backoff(self._rng, attempt))
                    attempt += 1
            await reader.ready()

    async def _page(self, room: Room, reader: Reader, cursor: MessageId) -> MessageId:
        """Write the next page, or as much of it as the reader takes without waiting; return the new cursor."""
        target = room.position
        page = await self._backlog.page_after(room.ticket, cursor, target)
        # Beyond the room's position nothing is shown: it comes live. (The position may have grown meanwhile.)
        events = [event for event in page.events if cursor < event.at <= room.position]
        whole = not page.more or len(events) < len(page.events)
        taken = reader.take(events, cursor)
        metrics.REPLAYED.inc(taken)
        if taken == len(events) and whole:
            # Read to the end: what lies between here and *target* is nowhere any more (retention).
            return max(cursor, target, events[-1].at if events else cursor)
        return events[taken - 1].at if taken else cursor
