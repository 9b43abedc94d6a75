"""What travels from Redis to sockets: an event of the `:events` channel or of the log, and its frames. No I/O."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from delivery.wire import text_frame
from schemas.events import Confirmed, plain_json
from schemas.message_id import ZERO, MessageId


class Event:
    """One confirmed message, with its place in the log. Frames are made when first needed, once for all sockets."""

    __slots__ = ("at", "confirmed", "frames", "prev")

    def __init__(self, confirmed: Confirmed) -> None:
        self.confirmed = confirmed
        self.at = confirmed.position
        self.prev = ZERO  # the position before it, once a room has delivered it
        self.frames: dict[Encoding, bytes] = {}

    def frame(self, encoding: Encoding) -> bytes:
        """Return the bytes that sockets of this encoding get."""
        made = self.frames.get(encoding)
        if made is None:
            made = self.frames[encoding] = encoding(self)
        return made


Encoding = Callable[[Event], bytes]


def plain(event: Event) -> bytes:
    """Encode for plain mode: one text frame with the five fields."""
    if event.confirmed.kind != "message":
        return b""  # plain mode has no frame for it; the position moves on all the same
    # A tutorial's own controller may have written bytes that are not UTF-8 (lone surrogates here); a text frame
    # must not carry them.
    return text_frame(plain_json(event.confirmed).encode("utf-8", "replace"))


@dataclass(frozen=True, slots=True)
class Notice:
    """What travels beside the log and is kept nowhere: typing, receipts, presence. The payload is a v1 frame's."""

    kind: str
    user: str  # whom it is about; empty for several
    payload: str
    version: int = 0  # of a presence_diff
    own: bool = False  # a receipt that is news to its user's other devices: what was read


NOTICES = frozenset(("typing", "receipt", "presence_diff"))


_NONE = (None,) * 4
_decode = json.JSONDecoder().raw_decode  # without the search for blanks around it


class Changed:
    """The log has something that the channel does not tell: read it."""


CHANGED = Changed()


def read_event(payload: str) -> tuple[Event, MessageId] | Notice | Changed | None:
    """Read a message of an `:events` channel: the event and its predecessor's id; None for a type not known here.

    What cannot be read is taken as "something changed": the log has the truth.
    """
    try:
        fields, end = _decode(payload)
        kind = fields["type"]
        if end != len(payload):
            return CHANGED
        if kind in NOTICES:
            return Notice(
                kind, str(fields.get("user_id", "")), payload, int(fields.get("version", 0)), "read" in fields
            )
        if kind in ("message_deleted", "message_updated"):
            entry = Confirmed(
                fields["ticket_id"],
                fields["event_id"],
                "",
                fields.get("message", ""),
                int(fields["timestamp"]),
                kind=kind,
                target_id=fields["message_id"],
            )
        elif kind == "message":
            entry = Confirmed(
                fields["ticket_id"],
                fields["message_id"],
                fields["sender_id"],
                fields["message"],
                int(fields["timestamp"]),
                fields.get("client_message_id"),
                fields.get("original_id"),
                fields.get("trace_id"),
            )
        else:
            return CHANGED if kind == "changed" else None
        if not _is_text(entry):
            return CHANGED
        return Event(entry), MessageId.parse(fields["prev_id"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return CHANGED


def _is_text(entry: Confirmed) -> bool:
    """Whether all is text that should be. What is not could not be encoded, and a room would stop at it."""
    if not type(entry.ticket_id) is type(entry.sender_id) is type(entry.message) is str:
        return False
    extras = entry.client_message_id, entry.original_id, entry.trace_id, entry.target_id
    return extras == _NONE or all(extra is None or type(extra) is str for extra in extras)
