"""What happens to a batch of entries: decode, moderate, archive, and the settlement of each."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from schemas.entries import NotAMessage, decode_submitted, encode_confirmed, encode_submitted
from schemas.events import ID_PATTERN, Change, Confirmed, Submitted, event_tail
from schemas.message_id import MessageId
from ticketwire.archive.audit import Decision
from ticketwire.archive.messages import Archive
from ticketwire.archive.reviews import Approved, Reviews
from ticketwire.archive.rows import ArchiveRow, Outcome, Status, Stored
from ticketwire.bus.partition import Entry, Settlement, dead_letter
from ticketwire.errors import Rejected
from workers import metrics
from workers.moderation.verdict import Action, Candidate, Hit, Moderator, Verdict
from workers.retry import halves

_STATUS: dict[Action, Status] = {
    Action.ALLOW: "confirmed",
    Action.MASK: "masked",
    Action.HOLD: "held",
    Action.REJECT: "rejected",
}
REVIEW = "review"  # the rule named in the verdict of what a person approved
_SHOWN = ("confirmed", "masked")


class Decoded(NamedTuple):
    """An entry that is a message."""

    entry: Entry
    id: MessageId
    message: Submitted


class Pipeline:
    """The stages of one partition. Not to be entered twice at a time: tickets are judged in order."""

    def __init__(self, partition: int, archive: Archive, moderator: Moderator, worker: str) -> None:
        self._partition = partition
        self._archive = archive
        self._moderator = moderator
        self._worker = worker
        self._reviews = Reviews(archive.database)

    async def handle(self, entries: Sequence[Entry], now_ms: int) -> list[Settlement]:
        """Return the settlement of each entry, in the same order; every message of them is archived by then.

        Idempotent: a repeat finds the rows of the first time, and their verdict wins. Raises Unavailable, after
        which nothing must be acknowledged.
        """
        settled: dict[str, Settlement] = {}
        messages: list[Decoded] = []
        changes: list[tuple[Entry, MessageId, Change]] = []
        for entry in entries:
            try:
                message = decode_submitted(entry.fields)
                message_id = self._storable(entry.id)
            except NotAMessage as exc:
                settled[entry.id] = self.bury(entry, Rejected(exc.code, exc.detail), "decode", now_ms)
                continue
            if isinstance(message, Change):
                changes.append((entry, message_id, message))
            else:
                messages.append(Decoded(entry, message_id, message))
        approved = await self._find_approved(messages, settled, now_ms)
        messages = [decoded for decoded in messages if decoded.entry.id not in settled]
        if messages:
            verdicts = await self._judge(messages, approved)
            rows = [self._row(decoded, verdict) for decoded, verdict in zip(messages, verdicts, strict=True)]
            decisions = [_decision(decoded, verdict) for decoded, verdict in zip(messages, verdicts, strict=True)]
            settled |= await self._store(messages, rows, decisions, now_ms)
            for entry_id in approved:
                await self._note_sent(next(d for d in messages if d.entry.id == entry_id), settled)
        for entry, message_id, change in changes:  # after the messages of the batch: their targets may be among them
            settled[entry.id] = await self._change(entry, message_id, change, now_ms)
        return [_unshown(settled[entry.id], changes) for entry in entries]

    async def _change(self, entry: Entry, message_id: MessageId, change: Change, now_ms: int) -> Settlement:
        """Archive a deletion or an update, and its effect on the target."""
        deletion = change.type == "message_deleted"
        row = ArchiveRow(
            change.ticket_id,
            message_id.ms,
            message_id.seq,
            self._partition,
            change.sender_id,
            change.message or "",
            "deletion" if deletion else "update",
            message_id.ms // 1000,
            original_id=change.target_id,
        )
        if not await self._archive.change(row):
            detail = f"message {change.target_id} of this ticket is unknown, deleted already or was sent as another"
            return self.bury(entry, Rejected("not_found", detail), "archive", now_ms)
        event = row.to_confirmed()
        return Settlement(entry.id, "change", row.ticket_id, event_tail(event), encode_confirmed(event), row.status)

    async def _find_approved(
        self, messages: Sequence[Decoded], settled: dict[str, Settlement], now_ms: int
    ) -> dict[str, Approved]:
        """Return, by entry id, what people approved of messages that were held; bury what was sent twice."""
        again = [d for d in messages if d.message.original_id is not None]
        keys = {d.entry.id: (d.message.ticket_id, MessageId.parse(str(d.message.original_id))) for d in again}
        found = await self._reviews.approved([key for key in keys.values() if key[1].storable])
        approved: dict[str, Approved] = {}
        taken = {key: one.sent_as for key, one in found.items()}
        for decoded in again:
            key = keys[decoded.entry.id]
            if key not in found:
                continue  # a dead letter sent again: judged like any other
            if taken[key] not in (None, decoded.entry.id):
                error = Rejected("duplicate", f"approved message {key[1]} was sent as {taken[key]} already")
                settled[decoded.entry.id] = self.bury(decoded.entry, error, "moderate", now_ms)
                continue
            taken[key] = decoded.entry.id
            approved[decoded.entry.id] = found[key]
        return approved

    async def _judge(self, messages: Sequence[Decoded], approved: Mapping[str, Approved]) -> list[Verdict]:
        """Ask the rules, but for what a person approved: its text is the one that was looked at."""
        asked = [d for d in messages if d.entry.id not in approved] if approved else messages
        verdicts = iter(await self._moderator.judge([_candidate(decoded) for decoded in asked]))
        if not approved:
            return list(verdicts)
        return [
            _approval(approved[d.entry.id], d.message.message) if d.entry.id in approved else next(verdicts)
            for d in messages
        ]

    async def _note_sent(self, decoded: Decoded, settled: Mapping[str, Settlement]) -> None:
        """The approved message is archived in its new place: its held row becomes a pointer to it."""
        if settled[decoded.entry.id].kind == "log":
            original = MessageId.parse(str(decoded.message.original_id))
            await self._reviews.sent(decoded.message.ticket_id, original, decoded.id)

    async def already_archived(self, entry: Entry) -> Settlement | None:
        """Return the settlement of an entry that is archived already, None for any other.

        Asked before burying: no message may have two fates, nor history one that is said to be dead.
        """
        ticket = dict(zip(entry.fields[::2], entry.fields[1::2], strict=False)).get("ticket_id", "")
        message_id = MessageId.parse(entry.id)
        if not (message_id.storable and re.fullmatch(ID_PATTERN, ticket)):
            return None
        row = await self._archive.find(ticket, message_id)
        if row is None:
            return None
        if row.status not in _SHOWN or row.message_id != message_id:
            return Settlement(entry.id, "none", fate=row.status)
        before = MessageId(message_id.ms, message_id.seq - 1) if message_id.seq else MessageId(message_id.ms - 1, 2**63)
        found = await self._archive.history(ticket, after=before, limit=1)
        return show(found[0]) if found and found[0].position == message_id else None

    def bury(self, entry: Entry, error: Rejected, stage: str, now_ms: int, attempts: int = 1) -> Settlement:
        """Return the settlement that gives up on *entry*."""
        first_ms = MessageId.parse(entry.id).ms
        letter = dead_letter(
            entry.id, entry.fields, error,
            stage=stage, attempts=attempts, first_at_ms=first_ms, last_at_ms=now_ms, worker=self._worker,
        )  # fmt: skip
        return Settlement(entry.id, "dead", fields=letter, fate=error.code)

    @staticmethod
    def _storable(entry_id: str) -> MessageId:
        message_id = MessageId.parse(entry_id)
        if not message_id.storable:
            raise NotAMessage("undecodable", f"entry id is {entry_id}, the archive's ids end at 2**63 - 1")
        return message_id

    def _row(self, decoded: Decoded, verdict: Verdict) -> ArchiveRow:
        message = decoded.message
        return ArchiveRow(
            message.ticket_id,
            decoded.id.ms,
            decoded.id.seq,
            self._partition,
            message.sender_id,
            verdict.text,
            _STATUS[verdict.action],
            message.timestamp if message.timestamp is not None else decoded.id.ms // 1000,
            _verdict_json(verdict) if verdict.hits else None,
            message.original_id,
            message.client_message_id,
            message.trace_id,
        )

    async def _store(
        self,
        messages: Sequence[Decoded],
        rows: Sequence[ArchiveRow],
        decisions: Sequence[Decision | None],
        now_ms: int,
    ) -> dict[str, Settlement]:
        """Archive *rows*; when PostgreSQL refuses the batch, bisect it down to the row that it refuses."""
        try:
            stored = await self._archive.store(rows, decisions)
        except Rejected as exc:
            if len(rows) == 1:
                return {messages[0].entry.id: self.bury(_as_moderated(messages[0], rows[0]), exc, "archive", now_ms)}
            settled: dict[str, Settlement] = {}
            for half in zip(halves(messages), halves(rows), halves(decisions), strict=True):
                settled |= await self._store(*half, now_ms)
            return settled
        for decision, outcome in zip(decisions, stored, strict=True):
            if decision is not None and outcome.outcome is Outcome.NEW:
                metrics.VERDICTS.labels(decision.action, decision.actor).inc()
        return {
            decoded.entry.id: self._settle(decoded, outcome, now_ms)
            for decoded, outcome in zip(messages, stored, strict=True)
        }

    def _settle(self, decoded: Decoded, stored: Stored, now_ms: int) -> Settlement:
        entry, row = decoded.entry, stored.row
        if stored.outcome is Outcome.DUPLICATE:
            detail = f"message {stored.duplicate_of} of this ticket and sender has the same client_message_id"
            return self.bury(_as_moderated(decoded, row), Rejected("duplicate", detail), "archive", now_ms)
        if row.status not in _SHOWN:
            return Settlement(entry.id, "none", fate=row.status)
        if stored.outcome is Outcome.REPEAT and row.message_id != decoded.id:  # its log took it under another id
            return Settlement(entry.id, "none", fate=row.status)
        return show(row.to_confirmed(), row.status)


def _unshown(settlement: Settlement, changes: Sequence[tuple[Entry, MessageId, Change]]) -> Settlement:
    """A message that is deleted in its own batch is not shown at all."""
    for _, message_id, change in changes:
        if change.target_id == settlement.id and change.ticket_id == settlement.ticket and settlement.kind == "log":
            assert message_id > MessageId.parse(settlement.id)
            return Settlement(settlement.id, "none", fate="deleted")
    return settlement


def show(event: Confirmed, fate: str = "confirmed") -> Settlement:
    """Return the settlement that puts an archived message into its log."""
    kind: Literal["log", "change"] = "log" if event.target_id is None else "change"
    return Settlement(event.message_id, kind, event.ticket_id, event_tail(event), encode_confirmed(event), fate)


def count(settlements: Sequence[Settlement]) -> None:
    """Add settled entries to the metrics, once they are confirmed."""
    for (kind, fate), number in Counter((s.kind, s.fate) for s in settlements).items():
        if kind == "dead":
            metrics.BURIED.labels(fate).inc(number)
            fate = "dead"
        metrics.SETTLED.labels(fate).inc(number)


def _candidate(decoded: Decoded) -> Candidate:
    message = decoded.message
    return Candidate(message.ticket_id, message.sender_id, message.message, decoded.id.ms)


def _approval(approved: Approved, text: str) -> Verdict:
    # A reviewer saw the archived text; the one on the stream is the same unless somebody wrote there by hand.
    return Verdict(
        Action.ALLOW, approved.body or text, (Hit(REVIEW, 1, Action.ALLOW, f"approved by {approved.actor}"),)
    )


def _decision(decoded: Decoded, verdict: Verdict) -> Decision | None:
    """What the record says about a verdict; nothing about messages that were allowed."""
    if verdict.action is Action.ALLOW:
        return None
    hit = next(hit for hit in verdict.hits if hit.action is verdict.action)
    return Decision(
        f"{hit.rule}@{hit.version}",
        verdict.action,
        f"message {decoded.message.ticket_id}/{decoded.entry.id}",
        hit.detail,
        {"rules": [f"{hit.rule}@{hit.version}" for hit in verdict.hits], "sender": decoded.message.sender_id},
    )


def _as_moderated(decoded: Decoded, row: ArchiveRow) -> Entry:
    """The entry as moderation left it: what was masked must not lie in a dead letter."""
    if row.body == decoded.message.message:
        return decoded.entry
    return Entry(decoded.entry.id, encode_submitted(decoded.message.model_copy(update={"message": row.body})))


def _verdict_json(verdict: Verdict) -> str:
    hits = [{"rule": h.rule, "version": h.version, "action": h.action, "detail": h.detail} for h in verdict.hits]
    return json.dumps({"action": verdict.action, "hits": hits}, ensure_ascii=False)
