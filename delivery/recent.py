"""The newest events of one ticket, kept so that the last step of a catch-up needs no waiting. No I/O."""

from __future__ import annotations

from collections import deque

from delivery.events import Event
from schemas.message_id import MessageId


class Recent:
    """A bounded tail of what was delivered, without a hole in it."""

    __slots__ = ("_events", "_from")

    def __init__(self, most: int) -> None:
        self._events: deque[Event] = deque(maxlen=most)
        self._from: MessageId | None = None  # the position right before the oldest event kept

    def add(self, event: Event, prev: MessageId) -> None:
        """Take the next event, which follows *prev*."""
        if self._events.maxlen == 0:
            return
        if not self._events:
            self._from = prev
        elif len(self._events) == self._events.maxlen:
            self._from = self._events[0].at
        self._events.append(event)
        if event.confirmed.target_id is not None:
            self._change(event)

    def _change(self, change: Event) -> None:
        """Keep the text of a deleted or updated message no longer. Readers are told by the change itself."""
        target = MessageId.parse(str(change.confirmed.target_id))
        kept: list[Event] = []
        prev: MessageId | None = None  # what now precedes the next event, where that is another one than before
        for event in self._events:
            if event.at == target:
                if change.confirmed.kind == "message_deleted":
                    prev = event.prev
                    continue
                renewed = Event(event.confirmed._replace(message=change.confirmed.message))
                renewed.prev = event.prev
                event = renewed
            elif prev is not None:
                again = Event(event.confirmed)
                again.prev, prev = prev, None
                event = again
            kept.append(event)
        self._events.clear()
        self._events.extend(kept)

    def knows(self, position: MessageId) -> bool:
        """Whether there was an event at *position*, as far as memory reaches."""
        return position == self._from or any(event.at == position for event in self._events)

    def after(self, position: MessageId) -> list[Event] | None:
        """Return the events after *position*; None when some of them are no longer here."""
        if self._from is None or position < self._from:
            return None
        return [event for event in self._events if event.at > position]
