"""`GET /messages/{ticket}/{message_id}`: what has become of an accepted message."""

from __future__ import annotations

import json
import re
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ingest import metrics
from ingest.exchange import error_body, to_json
from ingest.service import Ingest
from schemas.events import ID_PATTERN, ID_RULE
from schemas.message_id import MessageId
from ticketwire.archive.rows import FoundMessage
from ticketwire.bus.fate import DeadLetter, Pending, locate, search_dead
from ticketwire.errors import Rejected, TicketwireError, Unavailable

_ID = re.compile(ID_PATTERN)


async def message_fate(request: Request) -> Response:
    """Answer `pending`, `confirmed`, `masked`, `held`, `rejected`, `deleted` or `dead`, with times and reason.

    Times are Unix milliseconds. 404 for an id never given out for this ticket.
    """
    try:
        ticket, message_id = _asked(request.path_params["ticket"], request.path_params["message_id"])
        found = await find(request.state.ingest, ticket, message_id)
    except TicketwireError as exc:
        metrics.REFUSED.labels(exc.code).inc()
        headers = {"Retry-After": str(exc.retry_after_s)} if isinstance(exc, Unavailable) else None
        return Response(error_body(exc), exc.problem.status, headers, "application/json")
    return Response(to_json(found), headers={"Cache-Control": "no-store"}, media_type="application/json")


async def find(ingest: Ingest, ticket: str, message_id: MessageId) -> dict[str, Any]:
    """Look where the message can be. Raises Rejected `not_found`, and Unavailable when it cannot be told.

    Redis first, then the archive, so that it cannot slip past: what is no longer on the ingest stream was archived
    or buried before it left.
    """
    known: dict[str, Any] = {"ticket_id": ticket, "message_id": str(message_id)}
    outage: Unavailable | None = None
    place: Pending | DeadLetter | None = None
    try:
        place = await locate(ingest.bus, ticket, message_id)
    except Unavailable as exc:
        outage = exc  # the archive may know it all the same
    if isinstance(place, Pending):
        return {**known, "status": "pending", "accepted_at_ms": message_id.ms}
    if place is None:
        row = await ingest.archive.find(ticket, message_id)
        if row is not None:
            return {**known, **_archived(row, message_id)}
        if outage is not None:
            raise outage
        place = await search_dead(ingest.bus, ticket, message_id)
    if place is None:
        raise Rejected("not_found", f"ticket {ticket} has no message {message_id}")
    return {**known, **_buried(place, message_id)}


def _archived(row: FoundMessage, asked: MessageId) -> dict[str, Any]:
    found: dict[str, Any] = {
        "status": row.status,
        "accepted_at_ms": asked.ms,
        "archived_at_ms": row.archived_at_ms,
    }
    if row.message_id != asked:
        found["shown_as"] = str(row.message_id)  # its log took it under another id
    if row.original_id is not None:
        found["original_id"] = row.original_id
    if row.verdict is not None:
        found["reason"] = json.loads(row.verdict)
    return found


def _buried(letter: DeadLetter, asked: MessageId) -> dict[str, Any]:
    return {
        "status": "dead",
        "accepted_at_ms": asked.ms,
        "buried_at_ms": letter.buried_at_ms,
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
