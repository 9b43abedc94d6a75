"""Messages <-> stream fields: the only codec, with its version.

On an ingest stream an entry has the fields `v` (1; 1 when missing), `ticket_id`, `sender_id`, `message` and, as far as
known, `client_message_id`, `trace_id` (32 hex digits), `original_id` and `timestamp` (Unix seconds; the entry id's time
when missing). A foreign producer may write the same: `XADD ingest:{07} * ticket_id 12345 sender_id 1 message Hello`.

An entry with `type` changes the shown message `target_id`: `message_deleted`, or `message_updated` with `message`.

In a ticket's log it has `sender_id`, `message`, `timestamp` and the optional fields; the ticket is in the key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import ValidationError

from schemas.events import BODY_RULE, ID_RULE, KEY_RULE, Change, Confirmed, Submitted
from schemas.message_id import MessageId

VERSION = "1"
_KINDS: dict[str, Literal["message_deleted", "message_updated"]] = {
    "message_deleted": "message_deleted",
    "message_updated": "message_updated",
}
_OPTIONAL = ("client_message_id", "trace_id", "original_id")
_RULES = {
    "ticket_id": ID_RULE,
    "sender_id": ID_RULE,
    "message": BODY_RULE,
    "client_message_id": KEY_RULE,
    "trace_id": "32 hexadecimal digits",
    "original_id": "<milliseconds>-<sequence>",
    "timestamp": "whole Unix seconds",
    "type": "message_deleted or message_updated; none for a message",
    "target_id": "<milliseconds>-<sequence>",
}


class NotAMessage(ValueError):
    """An entry that no retry will make readable. *code* is `undecodable` or `unknown_version`."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def encode_submitted(message: Submitted) -> list[str]:
    """Return the fields of an ingest entry: field, value, field, value …"""
    fields = [
        "v", VERSION, "ticket_id", message.ticket_id, "sender_id", message.sender_id, "message", message.message,
    ]  # fmt: skip
    for name in _OPTIONAL:
        value = getattr(message, name)
        if value is not None:
            fields += (name, value)
    if message.timestamp is not None:
        fields += ("timestamp", str(message.timestamp))
    return fields


def encode_change(change: Change) -> list[str]:
    """Return the fields of an ingest entry that changes a shown message."""
    fields = ["v", VERSION, "type", change.type, "ticket_id", change.ticket_id, "sender_id", change.sender_id]
    fields += ["target_id", change.target_id]
    return [*fields, "message", change.message] if change.message is not None else fields


def decode_submitted(fields: Sequence[str]) -> Submitted | Change:
    """Read the fields of an ingest entry. Raises NotAMessage, naming the field, what was found and what is allowed."""
    pairs = dict(zip(fields[::2], fields[1::2], strict=True))
    version = pairs.pop("v", VERSION)
    if version != VERSION:
        raise NotAMessage("unknown_version", f"entry has version {version[:20]!r}, this worker knows {VERSION!r}")
    try:
        return Change.model_validate(pairs) if "type" in pairs else Submitted.model_validate(pairs)
    except ValidationError as exc:
        raise NotAMessage("undecodable", explain(exc)) from exc


def explain(exc: ValidationError) -> str:
    """Say in one sentence what is wrong with a message, never quoting its body."""
    error = exc.errors(include_url=False)[0]
    if not error["loc"]:
        return f"a field's name is not valid UTF-8; allowed are v, {', '.join(_RULES)}"
    name = str(error["loc"][0])
    if error["type"] == "missing":
        return f"{name} is missing: {_RULES.get(name, '')}"
    if error["type"] == "extra_forbidden":
        return f"field {name[:60]!r} is not known; allowed are v, {', '.join(_RULES)}"
    found = error["input"]
    if not isinstance(found, str):
        return f"{name} is of type {type(found).__name__}, allowed: {_RULES[name]}"
    shown = f"{len(found):,} characters" if name == "message" or len(found) > 60 else repr(found)
    if name == "message" and error["type"] != "string_too_long":
        shown += " with a control character or invalid UTF-8" if found else ""
    return f"{name} has {shown}, allowed: {_RULES[name]}"


def encode_confirmed(event: Confirmed) -> list[str]:
    """Return the fields of a log entry: field, value, field, value …"""
    fields = ["sender_id", event.sender_id, "message", event.message, "timestamp", str(event.timestamp)]
    if event.target_id is not None:
        # The target stands first: confirm.lua takes its entry out of the log.
        fields = ["target_id", event.target_id, "type", event.kind, *fields]
    for name in _OPTIONAL:
        value = getattr(event, name)
        if value is not None:
            fields += (name, value)
    return fields


def decode_confirmed(ticket: str, entry_id: str, fields: Sequence[str]) -> Confirmed:
    """Read a log entry. A log written by the tutorial's own controller reads the same."""
    pairs = dict(zip(fields[::2], fields[1::2], strict=True))
    stated = pairs.get("timestamp", "")
    return Confirmed(
        ticket_id=ticket,
        message_id=entry_id,
        sender_id=pairs.get("sender_id", ""),
        message=pairs.get("message", ""),
        timestamp=int(stated) if stated.isdecimal() else MessageId.parse(entry_id).ms // 1000,
        client_message_id=pairs.get("client_message_id"),
        original_id=pairs.get("original_id"),
        trace_id=pairs.get("trace_id"),
        kind=_KINDS.get(pairs.get("type", ""), "message"),
        target_id=pairs.get("target_id"),
    )
