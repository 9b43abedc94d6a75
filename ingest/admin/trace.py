"""One message's fate and way, as far as Redis and PostgreSQL know it."""

from __future__ import annotations

import json
import re
from typing import Any

from ingest.admin.letters import Letters
from ingest.admin.shapes import copy_json, letter_json
from schemas.events import ID_PATTERN, ID_RULE
from schemas.message_id import MessageId
from ticketwire.archive.audit import Audit
from ticketwire.archive.dead_letters import KeptLetter
from ticketwire.archive.messages import Archive
from ticketwire.archive.rows import FoundMessage
from ticketwire.bus.bus import Bus
from ticketwire.bus.dead_letters import Letter, Sent
from ticketwire.bus.overview import Place, place
from ticketwire.errors import Rejected

MOST_REPLAYS = 20  # of one message that are followed
MOST_DECISIONS = 100
_SHOWN = ("confirmed", "masked")


class Tracer:
    """Puts together what is known of a message. Times nobody recorded are null, never guessed."""

    def __init__(self, bus: Bus, archive: Archive, letters: Letters, audit: Audit) -> None:
        self._bus = bus
        self._archive = archive
        self._letters = letters
        self._audit = audit

    async def trace(self, ticket: str, message_id: str) -> dict[str, Any]:
        """Return status and steps, and under `next` those of what it was sent as. Raises Rejected."""
        if not re.fullmatch(ID_PATTERN, ticket):
            raise Rejected("invalid", f"ticket is {ticket[:60]!r}, allowed: {ID_RULE}")
        try:
            at = MessageId.parse(message_id)
        except ValueError as exc:
            raise Rejected("invalid", str(exc)) from None
        first = await self._one(ticket, at)
        if first is None:
            raise Rejected("not_found", f"ticket {ticket} has no message {at}")
        found = first
        for _ in range(MOST_REPLAYS):
            if found["replayed_as"] is None:
                break
            following = await self._one(ticket, MessageId.parse(found["replayed_as"]))
            found["next"] = following
            if following is None:  # Redis lost it before anybody worked on it
                break
            found = following
        return first

    async def _one(self, ticket: str, at: MessageId) -> dict[str, Any] | None:
        # Redis first, then the archive: what is no longer on the ingest stream was archived or buried before it left.
        where = await place(self._bus, ticket, at)
        row = await self._archive.find(ticket, at)
        partition = self._bus.keys.partition_of(ticket)
        letter = await self._letters.dead.of_entry(partition, at)
        letter = letter if letter is not None and letter.ticket == ticket else None
        kept = [one for one in await self._letters.kept.of_entry(partition, str(at)) if one.copy.ticket == ticket]
        sent = await self._letters.dead.sent_as(partition, str(kept[-1].copy.letter_id)) if kept else None
        if not where.on_stream and row is None and letter is None and not kept:
            return None
        decisions = await self._audit.page(subject=f"message {ticket}/{at}", limit=MOST_DECISIONS)
        replayed_as = None
        if letter is None and kept and not where.on_stream:
            replayed_as = sent.new_id if sent else kept[-1].replayed_as
        return {
            "ticket_id": ticket,
            "message_id": str(at),
            "partition": partition,
            "status": _status(where, row, letter, kept, replayed_as),
            "sender_id": row.sender_id if row else None,
            "trace_id": (row.trace_id if row else letter.trace_id if letter else None) or None,
            "client_message_id": row.client_message_id if row else None,
            "original_id": row.original_id if row else None,
            "shown_as": str(row.message_id) if row and row.message_id != at else None,
            "replayed_as": replayed_as,
            "steps": [
                {"step": "accepted", "at_ms": at.ms},
                *_in_hand(where),
                *_archived(where, row),
                *_buried(letter, kept, sent),
            ],
            "decisions": [
                {"number": d.number, "at_ms": d.at_ms, "actor": d.actor, "action": d.action, "why": d.why}
                for d in reversed(decisions)
            ],
        }


def _status(
    where: Place, row: FoundMessage | None, letter: Letter | None, kept: list[KeptLetter], replayed_as: str | None
) -> str:
    if where.on_stream:
        return "pending"
    if letter is not None:  # of a message that killed its workers the archive may have a row as well
        return "dead"
    if row is not None:
        return row.status
    if replayed_as is not None:
        return "replayed"
    # A copy of a letter that is neither in Redis nor known to be sent or purged: Redis lost it.
    return "purged" if kept[-1].purged_at_ms is not None else "dead"


def _in_hand(where: Place) -> list[dict[str, Any]]:
    if not where.deliveries:
        return []
    return [{"step": "taken_over", "at_ms": where.read_at_ms, "deliveries": where.deliveries}]


def _archived(where: Place, row: FoundMessage | None) -> list[dict[str, Any]]:
    if row is None:
        return []
    verdict = json.loads(row.verdict) if row.verdict is not None else None
    steps: list[dict[str, Any]] = [
        {"step": "verdict", "at_ms": None, "status": row.status, "verdict": verdict},
        {"step": "archived", "at_ms": row.archived_at_ms},
    ]
    if row.status in _SHOWN and not where.on_stream:
        steps.append({"step": "confirmed", "at_ms": None, "in_log": where.in_log})
    return steps


def _buried(letter: Letter | None, kept: list[KeptLetter], sent: Sent | None) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    for one in kept:
        steps.append({"step": "buried", "at_ms": one.copy.last_at_ms, "letter": copy_json(one.copy)})
        if letter is not None and letter.id == str(one.copy.letter_id):
            continue  # it lies in Redis, so it was neither sent nor purged since
        if one.purged_at_ms is not None:
            steps.append({"step": "purged", "at_ms": one.purged_at_ms, "actor": one.actor, "why": one.why})
        if one.replayed_as is not None:
            more = {"actor": one.actor, "why": one.why}
            steps.append({"step": "replayed", "at_ms": one.replayed_at_ms, "new_id": one.replayed_as, **more})
    if letter is not None and all(str(one.copy.letter_id) != letter.id for one in kept):
        steps.append({"step": "buried", "at_ms": letter.last_at_ms, "letter": letter_json(letter)})
    if sent is not None and kept[-1].replayed_as != sent.new_id:
        note = json.loads(sent.note)
        more = {"actor": note["actor"], "why": note["why"]}
        steps.append({"step": "replayed", "at_ms": sent.at_ms, "new_id": sent.new_id, **more})
    return steps
