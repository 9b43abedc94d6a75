"""Catch up one reader and make it live, as one operation: no gap, no race, nothing twice."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Protocol

from delivery import metrics
from delivery.backlog import Backlog
from delivery.events import Encoding
from delivery.fanout import WRITE_BYTES, Writer, joined
from delivery.room import Room
from schemas.message_id import MessageId
from ticketwire.errors import Unavailable

log = logging.getLogger(__name__)

BACKOFF_BASE_S = 0.1
BACKOFF_CAP_S = 5.0


def backoff(rng: random.Random, attempt: int) -> float:
    """Seconds to wait before try *attempt* + 1: full jitter, so that readers do not come in step."""
    return rng.uniform(0, min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2 ** min(attempt, 10)))


class Reader(Writer, Protocol):
    """A socket that can be waited for."""

    @property
    def closing(self) -> bool: ...

    @property
    def paused(self) -> bool: ...

    async def drained(self) -> None: ...


class Replay:
    """Catch-ups of this node, which share a budget of pages in memory."""

    def __init__(self, backlog: Backlog, pages: int, rng: random.Random | None = None) -> None:
        self._backlog = backlog
        self._budget = asyncio.Semaphore(pages)
        self._rng = rng or random.Random()

    async def run(self, room: Room, reader: Reader, since: MessageId, encoding: Encoding) -> None:
        """Write *reader* everything after *since*, then make it live. Returns at once when it closes.

        Waits while the reader is slow, Redis or PostgreSQL is away, or the budget is used up; a reader that is
        waited for holds no page, it is read again.
        """
        cursor, attempt = since, 0
        if since > room.position:
            # A plain client cannot be told `reset`. Its position may be right and ours behind (the archive shows a
            # message a moment before it is confirmed), so it goes on from ours: a repeat rather than a loss.
            metrics.REPLAYS.labels("future").inc()
            log.info("position in the future", extra={"ticket": room.ticket, "since": str(since)})
        while not reader.closing:
            rest = room.recent_after(cursor)
            if rest is not None:
                # No await from here to `join`: what was written before ends exactly where the live events begin.
                for data in joined([event.frame(encoding) for event in rest]):
                    reader.write(data)
                metrics.REPLAYED.inc(len(rest))
                if not reader.closing:
                    room.join(reader, encoding)
                return
            try:
                async with self._budget:
                    cursor = await self._page(room, reader, cursor, encoding)
                attempt = 0
            except Unavailable as exc:
                if attempt == 0:
                    metrics.OUTAGES.inc()
                    log.warning("catch-up waits", extra={"ticket": room.ticket, "reason": exc.detail})
                await asyncio.sleep(backoff(self._rng, attempt))
                attempt += 1
            await reader.drained()

    async def _page(self, room: Room, reader: Reader, cursor: MessageId, encoding: Encoding) -> MessageId:
        """Write the next page, or as much of it as the reader takes without waiting; return the new cursor."""
        target = room.position
        page = await self._backlog.page_after(room.ticket, cursor, target)
        # Beyond the room's position nothing is shown: it comes live. (The position may have grown meanwhile.)
        events = [event for event in page.events if cursor < event.at <= room.position]
        whole = not page.more or len(events) < len(page.events)
        start = 0
        while start < len(events) and not reader.paused and not reader.closing:
            size, end = 0, start
            while end < len(events) and (size < WRITE_BYTES):
                size += len(events[end].frame(encoding))
                end += 1
            reader.write(b"".join(event.frame(encoding) for event in events[start:end]))
            cursor = events[end - 1].at
            start = end
        metrics.REPLAYED.inc(start)
        if start == len(events) and whole:
            # Read to the end: what lies between here and *target* is nowhere any more (retention).
            return max(cursor, target)
        return cursor
