"""What the archive takes and gives: rows, outcomes, bounds of an id. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal, NamedTuple, TypeAlias

from schemas.events import Confirmed
from schemas.message_id import MessageId

# `moved` is the archive's own: the message is stored under another id, which the log took (see `Archive.rename`).
# `deletion` and `update` are changes: rows of their own, with the target as `original_id`; `deleted` is their target.
Status: TypeAlias = Literal["confirmed", "masked", "held", "rejected", "deleted", "moved", "deletion", "update"]
KINDS: dict[str, Literal["message_deleted", "message_updated"]] = {
    "deletion": "message_deleted",
    "update": "message_updated",
}

_LARGEST = 2**63 - 1  # of PostgreSQL's bigint


class ArchiveRow(NamedTuple):
    """One message as it is stored. A tuple, in the order of the INSERT: a batch becomes columns by one `zip`."""

    ticket_id: str
    id_ms: int
    id_seq: int
    partition: int
    sender_id: str
    body: str  # what may be shown: masked already
    status: Status
    sent_at: int  # Unix seconds
    verdict: str | None = None  # JSON text
    original_id: str | None = None
    client_message_id: str | None = None
    trace_id: str | None = None

    @property
    def message_id(self) -> MessageId:
        return MessageId(self.id_ms, self.id_seq)

    def to_confirmed(self) -> Confirmed:
        if self.status in KINDS:
            return Confirmed(
                ticket_id=self.ticket_id,
                message_id=f"{self.id_ms}-{self.id_seq}",
                sender_id=self.sender_id,
                message=self.body,
                timestamp=self.sent_at,
                kind=KINDS[self.status],
                target_id=self.original_id,
            )
        return Confirmed(
            ticket_id=self.ticket_id,
            message_id=f"{self.id_ms}-{self.id_seq}",
            sender_id=self.sender_id,
            message=self.body,
            timestamp=self.sent_at,
            client_message_id=self.client_message_id,
            original_id=self.original_id,
            trace_id=self.trace_id,
        )


class Outcome(Enum):
    """What became of one row given to `Archive.store`."""

    NEW = "new"  # stored now
    REPEAT = "repeat"  # this message was stored before, perhaps with another verdict, which wins
    DUPLICATE = "duplicate"  # another message has the same ticket, sender and client_message_id; not stored


@dataclass(slots=True)
class Stored:
    """One row's fate."""

    outcome: Outcome
    # What the archive holds and the worker must go by. Its id differs from the one given where a repeat
    # was renamed meanwhile. For a duplicate: the row as given.
    row: ArchiveRow
    duplicate_of: MessageId | None = None


@dataclass(frozen=True, slots=True)
class FoundMessage:
    """What the archive knows of one message; its text only if asked for."""

    ticket_id: str
    message_id: MessageId  # not the id asked for, if the message was renamed
    partition: int
    sender_id: str
    status: Status
    verdict: str | None  # JSON text
    original_id: str | None
    client_message_id: str | None
    trace_id: str | None
    sent_at: int  # Unix seconds
    archived_at_ms: int  # Unix milliseconds, PostgreSQL's clock
    body: str | None


def lower_bound(after: MessageId) -> MessageId | None:
    """Return the bigint pair x for which stored > x says the same as stored > *after*; None: nothing can be.

    Readers may name any id Redis could give, halves up to 2**64 - 1; the archive's end at 2**63 - 1.
    """
    if after.ms > _LARGEST:
        return None
    return MessageId(after.ms, min(after.seq, _LARGEST))


def upper_bound(before: MessageId) -> MessageId | None:
    """Return the bigint pair x for which stored < x says the same as stored < *before*; None: every row is."""
    if before.seq > _LARGEST:
        before = MessageId(before.ms + 1, 0)
    return before if before.ms <= _LARGEST else None
