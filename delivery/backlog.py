"""What a reader has missed: pages from the ticket's log and, where the log no longer reaches, from the archive."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from delivery.events import Event
from schemas.message_id import ZERO, MessageId
from ticketwire.archive.messages import Archive
from ticketwire.bus.bus import Bus
from ticketwire.bus.log import read_after, top, top_and_unsettled


@dataclass(frozen=True, slots=True)
class Page:
    """Events that follow a position, in order and without a hole."""

    events: list[Event]
    more: bool  # whether there may be others after them


class Known(Enum):
    """Where a position was found."""

    LOG = "log"
    ARCHIVE = "archive"
    NOWHERE = "nowhere"  # it never existed, or no longer does


class Backlog:
    """Reads confirmed events, in order, whatever Redis still has of them."""

    def __init__(self, bus: Bus, archive: Archive, page_entries: int) -> None:
        self._bus = bus
        self._archive = archive
        self._count = page_entries

    async def newest(self, ticket: str) -> MessageId | None:
        """Return the position of a reader who has everything; None when the ticket has no message.

        A log that is empty may have expired or been lost: then the archive knows. But it also has what is not confirmed
        yet, and a room that began there would take its event for a repeat. Raises Unavailable.
        """
        found = await top(self._bus, ticket)
        if found > ZERO:
            return found
        archived = await self._archive.newest(ticket)
        if archived is None:
            return None
        found, unsettled = await top_and_unsettled(self._bus, ticket)
        if found > ZERO:
            return found
        if unsettled is None or archived < unsettled:
            return archived
        return await self._archive.newest(ticket, before=unsettled)

    async def knows(self, ticket: str, position: MessageId) -> Known:
        """Say whether an entry of the ticket's log has, or had, this id. Raises Unavailable.

        What the archive has is counted though the log may not have it yet: whoever names it has read the history.
        """
        log = await read_after(self._bus, ticket, position, 1)
        if log.joined:
            return Known.LOG
        found = await self._archive.find(ticket, position)
        # What is held or was rejected has no place; another id means that the one asked for was never shown.
        shown = found is not None and found.message_id == position and found.status not in ("held", "rejected")
        return Known.ARCHIVE if shown else Known.NOWHERE

    async def unread(self, ticket: str, user: str, read: MessageId, most: int) -> int:
        """Count the messages of others after *read*, *most* at most. Raises Unavailable."""
        found = await self._archive.history(ticket, after=read, limit=most)
        return sum(message.sender_id != user for message in found)

    async def page_after(self, ticket: str, position: MessageId, known: MessageId) -> Page:
        """Return the next events after *position*. Raises Unavailable.

        *known* is the newest position known to be confirmed. What the archive has beyond it, and beyond what
        precedes an entry of the log, may not be confirmed yet and is not shown.
        """
        log = await read_after(self._bus, ticket, position, self._count)
        events = [Event(confirmed) for confirmed in log.events]
        more = len(events) == self._count
        if log.joined:
            return Page(events, more)
        # Whatever lies before an entry of the log is settled, as a partition is worked in order.
        before = events[0].at if events else MessageId(known.ms, known.seq + 1)
        if before <= position:
            return Page([], more=False)
        older = await self._archive.logged_between(ticket, position, before, limit=self._count)
        if len(older) == self._count:
            return Page([Event(confirmed) for confirmed in older], more=True)
        return Page([*map(Event, older), *events], more)
