"""What travels: the message a sender submitted, the confirmed one, and the limits of their fields."""

from __future__ import annotations

import re
from json.encoder import encode_basestring as _quoted  # as json.dumps(ensure_ascii=False) quotes a string
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, StringConstraints

from schemas.message_id import MessageId

ID_PATTERN = r"^[A-Za-z0-9._@-]{1,128}$"
ID_RULE = "1 to 128 of A-Z a-z 0-9 . _ @ -"
KEY_PATTERN = r"^[!-~]{1,128}$"
KEY_RULE = "1 to 128 visible ASCII characters without spaces"
MAX_BODY = 8_000  # characters
BODY_RULE = f"1 to {MAX_BODY:,} characters of UTF-8, no control characters but newline and tab"
# Cc but for tab and newline, and lone surrogates, which is how invalid UTF-8 from Redis arrives here.
FORBIDDEN_IN_BODY = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

Id = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
IdempotencyKey = Annotated[str, StringConstraints(pattern=KEY_PATTERN)]
# The same rule as FORBIDDEN_IN_BODY; pydantic itself refuses lone surrogates.
Body = Annotated[str, StringConstraints(min_length=1, max_length=MAX_BODY, pattern="^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$")]


class Submitted(BaseModel):
    """A message as ingest accepted it: what the ingest stream carries."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ticket_id: Id
    sender_id: Id
    message: Body
    client_message_id: IdempotencyKey | None = None
    trace_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] | None = None
    original_id: Annotated[str, StringConstraints(pattern=r"^\d{1,20}-\d{1,20}$")] | None = None
    timestamp: Annotated[int, "Unix seconds; the entry id says the same unless a producer states another"] | None = None


ChangeKind = Literal["message_deleted", "message_updated"]


class Change(BaseModel):
    """A person's change of a shown message, on its way through the ingest stream like any message."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: ChangeKind
    ticket_id: Id
    sender_id: Id  # who changed it
    target_id: Annotated[str, StringConstraints(pattern=r"^\d{1,20}-\d{1,20}$")]
    message: Body | None = None  # the new text of an update


class Confirmed(NamedTuple):
    """An entry of a ticket's log, archived before: a message, or the deletion or update of an earlier one."""

    ticket_id: str
    message_id: str  # the entry's own id: its place in the log
    sender_id: str
    message: str  # empty for a deletion
    timestamp: int  # Unix seconds
    client_message_id: str | None = None
    original_id: str | None = None
    trace_id: str | None = None
    kind: Literal["message", "message_deleted", "message_updated"] = "message"
    target_id: str | None = None  # the message that a deletion or update is about

    @property
    def position(self) -> MessageId:
        return MessageId.parse(self.message_id)


def plain_json(event: Confirmed) -> str:
    """The frame of plain mode: exactly these five fields, in this order."""
    return "{" + _five_fields(event) + "}"


def event_tail(event: Confirmed) -> str:
    """The event of the `:events` channel without its beginning, `{"prev_id":"…",`.

    confirm.lua puts the beginning in front, because only Redis knows the predecessor. In a change `message_id` is
    its target and `event_id` its own place in the log.
    """
    if event.kind != "message":
        text = f',"message":{_quoted(event.message)}' if event.kind == "message_updated" else ""
        return (
            f'"type":"{event.kind}","ticket_id":{_quoted(event.ticket_id)},"event_id":"{event.message_id}",'
            f'"message_id":"{event.target_id}"{text},"timestamp":{event.timestamp}' + "}"
        )
    extra = "".join(
        f',"{name}":{_quoted(value)}'
        for name, value in (
            ("client_message_id", event.client_message_id),
            ("original_id", event.original_id),
            ("trace_id", event.trace_id),
        )
        if value is not None
    )
    return '"type":"message",' + _five_fields(event) + extra + "}"


def _five_fields(event: Confirmed) -> str:
    # Written out, not json.dumps of a dict: this runs once for every message (a third of the time).
    return (
        f'"ticket_id":{_quoted(event.ticket_id)},"message_id":"{event.message_id}",'
        f'"sender_id":{_quoted(event.sender_id)},"message":{_quoted(event.message)},"timestamp":{event.timestamp}'
    )
