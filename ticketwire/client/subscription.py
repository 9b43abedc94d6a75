"""A ticket's events, as the application gets them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from ticketwire.client.tracker import EVENTS


class Stopped(Exception):
    """The server said that coming back is of no use: a close code from 4500 to 4999, or a refused handshake."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a ticket."""

    kind: str  # message, message_updated, message_deleted; or reset, caught_up
    ticket_id: str
    position: str
    message_id: str = ""  # of a change: its target
    sender_id: str = ""  # of a message
    message: str = ""
    timestamp: int = 0  # Unix seconds
    client_message_id: str | None = None  # of one's own message


class Subscription:
    """A ticket's events as an async iterator. Asking for the next one acknowledges the last."""

    def __init__(self, ticket: str, handled: Callable[[str, str], None]) -> None:
        """*handled* is told ticket and position of what may be acknowledged."""
        self._handled = handled
        self._queue: asyncio.Queue[Event | Stopped | None] = asyncio.Queue()
        self._last: str | None = None
        self.ticket = ticket

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        if self._last is not None:
            self._handled(self.ticket, self._last)
            self._last = None
        found = await self._queue.get()
        if found is None or isinstance(found, Stopped):
            self._queue.put_nowait(found)  # for whoever asks again
            if found is None:
                raise StopAsyncIteration
            raise found
        self._last = found.position if found.kind in EVENTS else None
        return found

    def put(self, event: Event | Stopped | None) -> None:
        """None ends the iteration, Stopped raises out of it."""
        self._queue.put_nowait(event)
