"""What people decide: held messages, shown messages taken back, senders muted."""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from typing import Any

from ingest.service import digest_of
from schemas.entries import encode_change, encode_submitted
from schemas.events import ID_PATTERN, ID_RULE, Change, ChangeKind, Submitted
from schemas.message_id import MessageId
from ticketwire.archive.audit import Audit
from ticketwire.archive.messages import Archive
from ticketwire.archive.reviews import HeldMessage, Reviews
from ticketwire.bus.accept import Acceptor, Offer
from ticketwire.bus.bus import Bus
from ticketwire.errors import Rejected, TicketwireError

log = logging.getLogger(__name__)

EXPIRY = "expiry"  # the actor of decisions that nobody took in time
UNSENT_AFTER_S = 10.0  # an approval this old that is not in the log was left behind by a process that died
MOST_AT_ONCE = 500
_CURSOR_RULE = "what the page before gave as next_cursor"


class Held:
    """Raises Rejected and Unavailable."""

    def __init__(self, bus: Bus, reviews: Reviews, acceptor: Acceptor) -> None:
        self._bus = bus
        self._reviews = reviews
        self._acceptor = acceptor

    async def page(self, limit: int, cursor: str) -> dict[str, Any]:
        """List undecided messages, oldest first."""
        found = await self._reviews.held(_from_cursor(cursor) if cursor else None, limit)
        following = f"{found[-1].message_id}/{found[-1].ticket_id}" if len(found) == limit else None
        return {"held": [_shown(one) for one in found if one.decision is None], "next_cursor": following}

    async def approve(self, ticket: str, message_id: str, actor: str, why: str) -> dict[str, Any]:
        """Decide, and send the message back through the stream; it is shown at the end of the log."""
        held = await self._reviews.decide(ticket, _asked(ticket, message_id), "approve", actor, why)
        return {**_named(held), "status": "approved", "sent_as": await self._send(held)}

    async def reject(self, ticket: str, message_id: str, actor: str, why: str) -> dict[str, Any]:
        held = await self._reviews.decide(ticket, _asked(ticket, message_id), "reject", actor, why)
        return {**_named(held), "status": "rejected"}

    async def send_left_behind(self) -> int:
        """Send what was approved by a process that died before sending it; return how many."""
        left = await self._reviews.unsent(UNSENT_AFTER_S, MOST_AT_ONCE)
        for held in left:
            await self._send(held)
        return len(left)

    async def reject_older(self, before_ms: int) -> int:
        """Reject what nobody decided on and ingest accepted before *before_ms*; return how many."""
        old = await self._reviews.held_before(before_ms, MOST_AT_ONCE)
        for held in old:
            try:
                await self._reviews.decide(held.ticket_id, held.message_id, "reject", EXPIRY, "nobody decided in time")
            except Rejected as exc:
                log.info("held message decided meanwhile", extra={"message": str(held.message_id), "why": exc.code})
        return len(old)

    async def _send(self, held: HeldMessage) -> str:
        """Put an approved message on its ingest stream. May be repeated: its idempotency key is that of the review."""
        message = Submitted(
            ticket_id=held.ticket_id,
            sender_id=held.sender_id,
            message=held.body,
            client_message_id=held.client_message_id,
            trace_id=held.trace_id,
            original_id=str(held.message_id),
        )
        keys = self._bus.keys
        partition = keys.partition_of(held.ticket_id)
        key = keys.idempotency(partition, held.ticket_id, held.sender_id, f"review:{held.message_id}")
        offer = Offer(partition, key, digest_of(message), encode_submitted(message))
        (answer,) = await self._acceptor.accept(secrets.token_hex(8), [offer])
        if isinstance(answer, TicketwireError):
            raise answer
        return answer


class Changes:
    """Taking shown messages back. A change goes through the ingest stream and has its own place in the log."""

    def __init__(self, bus: Bus, archive: Archive, audit: Audit, acceptor: Acceptor) -> None:
        self._bus = bus
        self._archive = archive
        self._audit = audit
        self._acceptor = acceptor

    async def delete(
        self, ticket: str, message_id: str, replacement: str | None, actor: str, why: str
    ) -> dict[str, Any]:
        """Delete a message, or replace its text; readers are told by an event. The record comes first."""
        found = await self._archive.find(ticket, _asked(ticket, message_id))
        if found is None:
            raise Rejected("not_found", f"ticket {ticket} has no message {message_id} in the archive")
        if found.status not in ("confirmed", "masked", "held", "rejected"):
            raise Rejected("already_decided", f"message {found.message_id} of ticket {ticket} is {found.status}")
        kind: ChangeKind = "message_deleted" if replacement is None else "message_updated"
        change = Change(
            type=kind, ticket_id=ticket, sender_id=actor, target_id=str(found.message_id), message=replacement
        )
        await self._audit.record(actor, kind, f"message {ticket}/{found.message_id}", why, {})
        partition = self._bus.keys.partition_of(ticket)
        (answer,) = await self._acceptor.accept(secrets.token_hex(8), [Offer(partition, "", "", encode_change(change))])
        if isinstance(answer, TicketwireError):
            raise answer
        return {"ticket_id": ticket, "message_id": str(found.message_id), "status": kind, "event_id": answer}


class Senders:
    """Muting people."""

    def __init__(self, reviews: Reviews) -> None:
        self._reviews = reviews

    async def mute(self, sender: str, seconds: int, actor: str, why: str) -> dict[str, Any]:
        """Reject whatever *sender* sends from now on for *seconds*. Workers follow within two seconds."""
        now = _now_ms()
        await self._reviews.mute(_sender(sender), now, now + seconds * 1_000, actor, why)
        return {"sender_id": sender, "muted_until_ms": now + seconds * 1_000}

    async def unmute(self, sender: str, actor: str, why: str) -> dict[str, Any]:
        if not await self._reviews.unmute(_sender(sender), _now_ms(), actor, why):
            raise Rejected("not_found", f"sender {sender} is not muted")
        return {"sender_id": sender, "muted_until_ms": None}


def _shown(held: HeldMessage) -> dict[str, Any]:
    return {
        **_named(held),
        "sender_id": held.sender_id,
        "message": held.body,
        "accepted_at_ms": held.id_ms,
        "verdict": json.loads(held.verdict) if held.verdict else None,
    }


def _named(held: HeldMessage) -> dict[str, Any]:
    return {"ticket_id": held.ticket_id, "message_id": str(held.message_id)}


def _sender(sender: str) -> str:
    if not _matches(sender):
        raise Rejected("invalid", f"sender is {sender[:60]!r}, allowed: {ID_RULE}")
    return sender


def _asked(ticket: str, message_id: str) -> MessageId:
    if not _matches(ticket):
        raise Rejected("invalid", f"ticket is {ticket[:60]!r}, allowed: {ID_RULE}")
    try:
        found = MessageId.parse(message_id)
    except ValueError as exc:
        raise Rejected("invalid", str(exc)) from None
    if not found.storable:
        raise Rejected("not_found", f"ticket {ticket} has no message {message_id}")
    return found


def _matches(text: str) -> bool:
    return re.fullmatch(ID_PATTERN, text) is not None


def _from_cursor(cursor: str) -> tuple[MessageId, str]:
    message_id, _, ticket = cursor.partition("/")
    try:
        return _asked(ticket, message_id), ticket
    except Rejected:
        raise Rejected("invalid", f"cursor is {cursor[:80]!r}, allowed: {_CURSOR_RULE}") from None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
