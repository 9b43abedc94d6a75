"""`GET /messages/{ticket}/{message_id}`: what has become of an accepted message."""

from __future__ import annotations

import json
import re
from typing import Any, TypeGuard

from starlette.requests import Request
from starlette.responses import Response

from ingest import metrics
from ingest.exchange import error_body, to_json
from schemas.events import ID_PATTERN, ID_RULE
from schemas.message_id import MessageId
from ticketwire.archive.dead_letters import LetterArchive
from ticketwire.archive.messages import Archive
from ticketwire.archive.rows import FoundMessage
from ticketwire.bus.accept import is_pending
from ticketwire.bus.bus import Bus
from ticketwire.bus.dead_letters import DeadLetters, Letter
from ticketwire.errors import Rejected, TicketwireError, Unavailable

_ID = re.compile(ID_PATTERN)
_MOST_SENT_AGAIN = 20  # how often one message is followed from dead letter to replay to dead letter

Fate = dict[str, Any]


async def message_fate(request: Request) -> Response:
    """Answer `pending`, `confirmed`, `masked`, `held`, `rejected`, `deleted` or `dead`, with times and reason.

    Times are Unix milliseconds. 404 for an id never given out for this ticket.
    """
    try:
        ticket, message_id = _asked(request.path_params["ticket"], request.path_params["message_id"])
        found = {"ticket_id": ticket, "message_id": str(message_id)}
        ingest = request.state.ingest
        found |= await Finder(ingest.bus, ingest.archive, ticket).find(message_id)
    except TicketwireError as exc:
        metrics.REFUSED.labels(exc.code).inc()
        headers = {"Retry-After": str(exc.retry_after_s)} if isinstance(exc, Unavailable) else None
        return Response(error_body(exc), exc.problem.status, headers, "application/json")
    return Response(to_json(found), headers={"Cache-Control": "no-store"}, media_type="application/json")


class Finder:
    """Looks wherever a message of one ticket can be, in the order in which it travels, so that it cannot slip past.

    What is no longer on the ingest stream was archived or buried before it left; what is no longer among the dead
    letters was noted in Redis as sent again, or in PostgreSQL as purged, before it left; and that note
    leaves Redis only when PostgreSQL has it.
    """

    def __init__(self, bus: Bus, archive: Archive, ticket: str) -> None:
        self._ticket = ticket
        self._bus = bus
        self._partition = bus.keys.partition_of(ticket)
        self._archive = archive
        self._letters = DeadLetters(bus)
        self._kept = LetterArchive(archive.database)

    async def find(self, message_id: MessageId, followed: int = 0) -> Fate:
        """Raises Rejected `not_found`, and Unavailable when it cannot be told."""
        outage: Unavailable | None = None
        try:
            if await is_pending(self._bus, self._ticket, message_id):
                return {"status": "pending", "accepted_at_ms": message_id.ms}
            # Before the archive: of a message that killed its workers the archive may hold a row as well.
            letter = (await self._letters.get(self._partition, [str(message_id)])).get(str(message_id))
            if self._is_of(letter, message_id):
                return _buried(letter)
        except Unavailable as exc:
            outage = exc  # the archive may know it all the same
        row = await self._archive.find(self._ticket, message_id)
        if row is not None:
            return _archived(row, message_id)
        if outage is not None:
            raise outage
        return await self._find_departed(message_id, followed)

    async def _find_departed(self, message_id: MessageId, followed: int) -> Fate:
        """Find what was buried under a later id, sent again or purged."""
        letter = await self._letters.of_entry(self._partition, message_id)
        if self._is_of(letter, message_id):
            return _buried(letter)
        sent = await self._letters.sent_as(self._partition, str(message_id))
        new_id = sent.new_id if sent else None
        for kept in await self._kept.of_entry(self._partition, str(message_id)):
            if kept.copy.ticket != self._ticket:
                continue
            new_id = new_id or kept.replayed_as
            if new_id is None and kept.purged_at_ms is not None:
                gone = {"status": "dead", "accepted_at_ms": message_id.ms, "buried_at_ms": kept.copy.last_at_ms}
                return {**gone, "reason": kept.copy.reason, "error": kept.copy.error, "purged_at_ms": kept.purged_at_ms}
        if new_id is not None and followed < _MOST_SENT_AGAIN:
            found = await self.find(MessageId.parse(new_id), followed + 1)
            return {"sent_again_as": new_id, **found, "accepted_at_ms": message_id.ms}
        raise Rejected("not_found", f"ticket {self._ticket} has no message {message_id}")

    def _is_of(self, letter: Letter | None, message_id: MessageId) -> TypeGuard[Letter]:
        """Another ticket's letter is nobody's business here."""
        return letter is not None and letter.entry_id == str(message_id) and letter.ticket == self._ticket


def _archived(row: FoundMessage, asked: MessageId) -> Fate:
    found: Fate = {"status": row.status, "accepted_at_ms": asked.ms, "archived_at_ms": row.archived_at_ms}
    if row.message_id != asked:
        found["shown_as"] = str(row.message_id)  # its log took it under another id
    if row.original_id is not None:
        found["original_id"] = row.original_id
    if row.verdict is not None:
        found["reason"] = json.loads(row.verdict)
    return found


def _buried(letter: Letter) -> Fate:
    return {
        "status": "dead",
        "accepted_at_ms": letter.first_at_ms,
        "buried_at_ms": letter.last_at_ms,
        "reason": letter.reason,
        "error": letter.error,
    }


def _asked(ticket: str, message_id: str) -> tuple[str, MessageId]:
    if not _ID.fullmatch(ticket):
        raise Rejected("invalid", f"ticket is {ticket[:60]!r}, allowed: {ID_RULE}")
    try:
        return ticket, MessageId.parse(message_id)
    except ValueError as exc:
        raise Rejected("invalid", str(exc)) from None
