"""Acknowledged and read positions on their way to Redis: newest only, written together about once a second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from delivery import metrics
from schemas.message_id import ZERO, MessageId
from ticketwire.bus.bus import Bus
from ticketwire.bus.readers import Mark, advance
from ticketwire.errors import Unavailable

log = logging.getLogger(__name__)

DAY_MS = 86_400_000


@dataclass(slots=True)
class _Reached:
    """How far one user's device has come; None: no news."""

    acked: MessageId | None = None
    read: MessageId | None = None
    back: bool = False

    def merge(self, acked: MessageId | None, read: MessageId | None, back: bool) -> None:
        if acked is not None and (back or self.acked is None or acked > self.acked):
            self.acked = acked
        if read is not None and (self.read is None or read > self.read):
            self.read = read
        self.back |= back


class Marks:
    """What was reached since the last write. A node that is killed loses a second of it: its clients repeat."""

    def __init__(self, bus: Bus, silent: Callable[[str], bool], *, every_s: float, days: int) -> None:
        self._bus = bus
        self._silent = silent  # tickets in which receipts would be too many
        self._every = every_s
        self._life_ms = days * DAY_MS
        self._news: dict[str, dict[tuple[str, str], _Reached]] = {}
        self._writing: dict[str, dict[tuple[str, str], _Reached]] = {}  # news on their way to Redis

    def acked(self, ticket: str, user: str, device: str, position: MessageId, *, back: bool = False) -> None:
        """The device has everything up to *position*. *back*: even if it had more before (`reset`)."""
        self._note(ticket, user, device).merge(position, None, back)

    def read(self, ticket: str, user: str, position: MessageId) -> None:
        self._note(ticket, user, "").merge(None, position, False)

    def cursor(self, ticket: str, user: str, device: str) -> tuple[MessageId, bool] | None:
        """Where the device is by news that Redis may not have yet, and whether it went back there; None: no news.

        Ask before Redis is asked: what is written in between is then found there.
        """
        found = [
            reached
            for news in (self._news, self._writing)
            if (reached := news.get(ticket, {}).get((user, device))) is not None and reached.acked is not None
        ]
        return (found[0].acked or ZERO, any(reached.back for reached in found)) if found else None

    def _note(self, ticket: str, user: str, device: str) -> _Reached:
        return self._news.setdefault(ticket, {}).setdefault((user, device), _Reached())

    async def run(self) -> None:
        """Write until cancelled."""
        down = False
        while True:
            await asyncio.sleep(self._every)
            try:
                await self.flush()
            except Unavailable as exc:
                if not down:
                    log.warning("positions wait for Redis", extra={"reason": exc.detail})
                down = True
            else:
                down = False

    async def flush(self) -> None:
        """Write what is new, now. Raises Unavailable, with everything kept for the next time."""
        news, self._news = self._news, {}
        if not news:
            return
        self._writing = news
        marks = {
            ticket: [Mark(user, device, _text(r.acked), _text(r.read), r.back) for (user, device), r in reached.items()]
            for ticket, reached in news.items()
        }
        try:
            await advance(self._bus, marks, self._silent, self._life_ms)
        except BaseException:
            for ticket, reached in news.items():
                for (user, device), old in reached.items():
                    newer = self._note(ticket, user, device)
                    newer.merge(old.acked if newer.acked is None else None, old.read, False)
                    newer.back |= old.back
            raise
        finally:
            self._writing = {}
        metrics.MARKS.inc(sum(map(len, marks.values())))


def _text(position: MessageId | None) -> str:
    return "" if position is None else str(position)
