"""What was sent and is not acknowledged: counted by subtraction, so that sending costs nothing per socket. No I/O."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from itertools import pairwise
from typing import NamedTuple

from schemas.message_id import ZERO, MessageId


class Sent(NamedTuple):
    """An event sent to one reader."""

    at: MessageId
    size: int  # bytes of its frame


class Ledger:
    """The newest events given to a ticket's live readers, with running totals.

    A live reader's unacknowledged messages are `count` less the total up to what it acknowledged: an event adds one
    line here, whatever the number of readers.
    """

    __slots__ = ("_ats", "_before", "_keep", "_sizes", "at", "count", "size")

    def __init__(self, keep: int) -> None:
        self._keep = keep  # at least as many as one reader may leave unacknowledged
        self._ats: list[MessageId] = []
        self._sizes: list[int] = []  # `size` after each
        self._before = 0  # `size` before the first of them
        self.count = 0  # events since this ledger began
        self.size = 0  # their bytes
        self.at = ZERO  # the last one, or where the ledger began

    def add(self, at: MessageId, size: int) -> None:
        self.at = at
        self.count += 1
        self.size += size
        self._ats.append(at)
        self._sizes.append(self.size)
        if len(self._ats) > 2 * self._keep:
            self._before = self._sizes[-self._keep - 1]
            del self._ats[: -self._keep], self._sizes[: -self._keep]

    def totals(self, position: MessageId) -> tuple[int, int] | None:
        """Return count and size up to *position*; None if it lies before what is remembered."""
        if position >= self.at:
            return self.count, self.size
        index = bisect_right(self._ats, position) - 1
        return (self.count - len(self._ats) + index + 1, self._sizes[index]) if index >= 0 else None

    def after(self, count: int) -> list[Sent]:
        """Return the events that came after the first *count*."""
        start = len(self._ats) - (self.count - count)
        assert start >= 0, f"the ledger keeps {self._keep} events, {self.count - count} are asked for"
        totals = [self._sizes[start - 1] if start else self._before, *self._sizes[start:]]
        sizes = (after - before for before, after in pairwise(totals))
        return [Sent(at, size) for at, size in zip(self._ats[start:], sizes, strict=True)]


class Outstanding:
    """One reader's unacknowledged events in one ticket.

    While it catches up each event is noted here; while it is live the ticket's ledger knows them.
    """

    __slots__ = ("_base", "_base_size", "_ledger", "_queue", "_queue_size", "_to", "acked")

    def __init__(self, position: MessageId) -> None:
        self._queue: deque[Sent] | None = None  # none costs 700 bytes less
        self._queue_size = 0
        self._ledger: Ledger | None = None  # while live
        self._base = self._base_size = 0  # the ledger's totals that are not outstanding
        self._to = position  # the last event noted here
        self.acked = position

    @property
    def count(self) -> int:
        queued = len(self._queue) if self._queue else 0
        return queued + (self._ledger.count - self._base if self._ledger is not None else 0)

    @property
    def size(self) -> int:
        """In bytes."""
        return self._queue_size + (self._ledger.size - self._base_size if self._ledger is not None else 0)

    @property
    def sent_to(self) -> MessageId:
        """The newest position sent: nothing beyond it can be acknowledged."""
        return max(self._to, self._ledger.at) if self._ledger is not None else self._to

    def limits(self, count: int, size: int) -> tuple[int, int]:
        """Return at which of the ledger's totals *count* more events or *size* more bytes are used up."""
        assert self._ledger is not None
        return self._ledger.count + count, self._ledger.size + size

    def note(self, at: MessageId, size: int) -> None:
        """An event was sent while catching up."""
        if self._queue is None:
            self._queue = deque()
        self._queue.append(Sent(at, size))
        self._queue_size += size
        self._to = at

    def go_live(self, ledger: Ledger) -> None:
        """From now on *ledger* has what is sent."""
        self._ledger = ledger
        self._base, self._base_size = ledger.count, ledger.size
        self._to = max(self._to, ledger.at)

    def leave_live(self) -> None:
        """Note here what is outstanding of the ledger, which will forget it."""
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            for sent in ledger.after(self._base):
                self.note(*sent)
            self._to = max(self._to, ledger.at)

    def ack(self, position: MessageId) -> bool:
        """Take everything up to *position* as acknowledged; say whether that is progress.

        The caller has compared it with `sent_to`.
        """
        if position <= self.acked:
            return False
        self.acked = position
        while self._queue and self._queue[0].at <= position:
            self._queue_size -= self._queue.popleft().size
        if self._queue is not None and not self._queue:
            self._queue = None
        if self._ledger is not None:
            count, size = self._ledger.totals(position) or (0, 0)
            if count > self._base:
                self._base, self._base_size = count, size
        return True
