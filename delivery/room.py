"""One ticket on this node: its position, its newest events, its local readers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from delivery import metrics
from delivery.backlog import Page
from delivery.events import CHANGED, Event, Notice, read_event
from delivery.fanout import Fanout, Ticker
from delivery.feed import Feed, Verdict
from delivery.members import Members
from delivery.recent import Recent
from schemas.message_id import MessageId

_DELIVERED, _DUPLICATES, _GAPS = (
    metrics.EVENTS.labels(verdict.value) for verdict in (Verdict.DELIVER, Verdict.DUPLICATE, Verdict.GAP)
)
_CHANGED = metrics.EVENTS.labels("changed")
_UNKNOWN = metrics.EVENTS.labels("unknown")


class Room(Fanout):
    """Everything up to `position` has been given to the live readers, in order; nothing beyond it has.

    An event that follows the position goes straight out. After anything else *repair* is called, which must
    bring `take` the log's entries after `position`; events that come meanwhile are found there too.
    """

    def __init__(self, ticket: str, ticker: Ticker, repair: Callable[[Room, str], None], recent: int) -> None:
        super().__init__(ticker)
        self.ticket = ticket
        self._repair = repair
        self._feed: Feed | None = None  # None: not opened yet
        self._recent = Recent(recent)
        self._members: Members | None = None
        self.missed = False  # something came, or may have, that was not delivered: cleared by the repair
        self.seen = MessageId(0, 0)  # newest position known to be confirmed
        self.refusal = ""  # why it could not be opened
        self.users = 0  # readers, and those who are about to become one
        self.opening: asyncio.Task[None] | None = None
        self.repairing: asyncio.Task[None] | None = None
        self.linger: asyncio.TimerHandle | None = None

    @property
    def position(self) -> MessageId:
        assert self._feed is not None, "the room is not open"
        return self._feed.at

    @property
    def is_open(self) -> bool:
        return self._feed is not None

    def start(self, position: MessageId) -> None:
        """Open at *position*, which was read after the subscription was confirmed."""
        self._feed = Feed(position)
        self.seen = max(self.seen, position)
        if self.missed:  # something came in between; the log says whether it is after *position*
            self._repair(self, "opening")

    def on_message(self, payload: str) -> None:
        """Take a message of the ticket's `:events` channel."""
        found = read_event(payload)
        if found is None:
            _UNKNOWN.inc()  # of a newer version
            return
        if isinstance(found, Notice):
            if self._members is not None:
                self.flush()  # whoever wrote and stopped typing has written first
                self._members.tell(found)
            return
        if found is CHANGED or not isinstance(found, tuple):
            _CHANGED.inc()
            self._miss("changed")
            return
        event, prev = found
        self.seen = max(self.seen, event.at)
        if self._feed is None:
            self.missed = True
            return
        verdict = self._feed.judge(event.at, prev)
        if verdict is Verdict.DELIVER:
            _DELIVERED.inc()
            event.prev = prev
            self._recent.add(event, prev)
            self.emit(event)
        elif verdict is Verdict.GAP:
            _GAPS.inc()
            self._miss("gap")
        else:
            _DUPLICATES.inc()

    def on_missed(self) -> None:
        """The subscription was lost and is back."""
        metrics.RESUBSCRIBED.inc()
        self._miss("resubscribed")

    def _miss(self, cause: str) -> None:
        self.missed = True
        if self._feed is not None:
            self._repair(self, cause)

    def take(self, page: Page) -> int:
        """Deliver what is new to us of a page that was read from `position` on; return how many events."""
        assert self._feed is not None
        count = 0
        for event in page.events:
            prev = self._feed.at
            if self._feed.advance(event.at):
                event.prev = prev
                self._recent.add(event, prev)
                self.emit(event)
                count += 1
        self.seen = max(self.seen, self._feed.at)
        return count

    def members(self, make: Callable[[], Members] | None = None) -> Members | None:
        """Return the v1 readers; with *make* they are made at the first call."""
        if self._members is None and make is not None:
            self._audience = self._members = make()
        return self._members

    def knows(self, position: MessageId) -> bool:
        """Whether memory tells that *position* is one of this ticket's."""
        return position == self.position or self._recent.knows(position)

    def recent_after(self, position: MessageId) -> list[Event] | None:
        """Return what follows *position* up to ours, from memory; None when memory does not reach back so far."""
        return [] if position >= self.position else self._recent.after(position)
