"""Find out how a v1 subscription begins: rights, position, `none` / `full` / `reset`, history, unread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from delivery.access import Identity
from delivery.backlog import Backlog, Known
from delivery.room import Room
from delivery.services import Services
from delivery.subscriptions import Rooms
from schemas.events import Confirmed
from schemas.frames import Resume, Subscribe
from schemas.message_id import ZERO, MessageId
from ticketwire.bus.readers import MOST_UNREAD, Standing, standing
from ticketwire.errors import Unavailable


@dataclass(slots=True)
class Beginning:
    """How a subscription begins, in a room that was entered for it."""

    resume: Resume
    position: MessageId  # what the client is told
    start: MessageId  # from where its events are sent: before `position` where this node is behind
    subscribed: dict[str, Any]
    history: dict[str, Any] | None


def past_message(event: Confirmed) -> dict[str, object]:
    """The five fields of a message, as history shows it."""
    return {
        "ticket_id": event.ticket_id,
        "message_id": event.message_id,
        "sender_id": event.sender_id,
        "message": event.message,
        "timestamp": event.timestamp,
    }


async def begin(services: Services, room: Room, identity: Identity, device: str, request: Subscribe) -> Beginning:
    """Decide on *request* in its *room*, which was entered. Raises Unavailable."""
    ticket = room.ticket
    lately = services.marks.cursor(ticket, identity.user, device) if device else None
    known = await standing(services.bus, ticket, identity.user, device)
    since = MessageId.parse(request.since or known.cursor) if request.since or known.cursor else None
    if lately is not None and request.since is None:
        at, back = lately
        since = at if back or since is None else max(since, at)
    resume: Resume = "none"
    if since is not None:
        resume = "full" if await joins(services.backlog, services.rooms, room, since) else "reset"
    unread = await _unread(services, ticket, identity.user, known)
    page: list[Confirmed] | None = None
    position = room.position
    if resume == "full":
        assert since is not None
        position = since
    elif request.history:
        # Up to the position told; what comes meanwhile follows as events.
        before = MessageId(position.ms, position.seq + 1)
        page = await services.archive.history(ticket, before=before, limit=request.history + 1)
    frame: dict[str, Any] = {"type": "subscribed"}
    if request.id is not None:
        frame["id"] = request.id
    frame |= {"ticket_id": ticket, "resume": resume, "position": str(position)}
    if resume == "full":
        frame["until"] = str(max(room.position, position))
    if known.read:
        frame |= {"read": known.read, "unread": unread}
    others = {user: read for user, read in known.reads.items() if user != identity.user}
    if others:
        frame["reads"] = others
    history = None
    if page is not None:
        shown = [past_message(event) for event in page[-request.history :]]
        more = len(page) > request.history
        history = {"type": "history_page", "ticket_id": ticket, "messages": shown, "has_more": more}
        if request.id is not None:
            history["id"] = request.id
    return Beginning(resume, position, min(position, room.position), frame, history)


async def _unread(services: Services, ticket: str, user: str, known: Standing) -> int:
    if known.unread is not None:
        return known.unread
    return await services.backlog.unread(ticket, user, MessageId.parse(known.read), MOST_UNREAD)


async def joins(backlog: Backlog, rooms: Rooms, room: Room, since: MessageId) -> bool:
    """Say whether everything after *since* can be sent: the position is one of the ticket's.

    Otherwise nobody knows what its client has, and it must be told `reset`. The beginning, 0-0, always is one.
    Raises Unavailable.
    """
    if since == ZERO or room.knows(since):
        return True
    known = await backlog.knows(room.ticket, since)
    if known is Known.LOG and since > room.position:
        # Another node was faster than this one.
        try:
            await rooms.catch_up(room)
        except TimeoutError as exc:
            raise Unavailable("this node is behind the ticket's log") from exc
    return known is not Known.NOWHERE
