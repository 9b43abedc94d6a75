"""Dead letters as JSON and as copies for PostgreSQL. Pure."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from schemas.message_id import MessageId
from ticketwire.archive.dead_letters import LetterCopy
from ticketwire.bus.dead_letters import Letter


def to_copy(letter: Letter) -> LetterCopy:
    return LetterCopy(
        letter.partition,
        MessageId.parse(letter.id),
        letter.entry_id,
        letter.ticket,
        letter.reason,
        letter.error,
        letter.error_class,
        letter.stage,
        letter.attempts,
        letter.first_at_ms,
        letter.last_at_ms,
        letter.worker,
        letter.trace_id,
        letter.fields,
    )


def letter_json(letter: Letter) -> dict[str, Any]:
    """A letter without what was in the message."""
    return copy_json(to_copy(letter))


def copy_json(copy: LetterCopy) -> dict[str, Any]:
    return {
        "id": f"{copy.partition:02d}:{copy.letter_id}",
        "partition": copy.partition,
        "entry_id": copy.entry_id,
        "ticket_id": copy.ticket or None,
        "reason": copy.reason,
        "error": copy.error,
        "error_class": copy.error_class,
        "stage": copy.stage,
        "attempts": copy.attempts,
        "first_at_ms": copy.first_at_ms,
        "last_at_ms": copy.last_at_ms,
        "worker": copy.worker,
        "trace_id": copy.trace_id or None,
    }


# What says how an entry was meant and travelled. Any other field may hold what a customer wrote.
_OPEN = frozenset(
    ("v", "type", "ticket_id", "sender_id", "client_message_id", "trace_id", "original_id", "target_id", "timestamp")
)
_MODERATED = frozenset(("archive", "confirm", "moderate"))
_LONGEST_OPEN = 128


def fields_json(fields: Sequence[str], stage: str) -> list[list[Any]]:
    """Name and value of each field; what is not UTF-8 as `{"base64": …}`.

    A letter that never came to moderation keeps its bytes for its replay, but nobody reads them here: texts are
    `{"hidden": <characters>}`. What was buried at a later *stage* was masked before.
    """
    moderated = stage in _MODERATED
    return [
        [_plain(name), _plain(value) if moderated or _is_open(name, value) else {"hidden": len(value)}]
        for name, value in zip(fields[::2], fields[1::2], strict=False)
    ]


def _is_open(name: str, value: str) -> bool:
    return name in _OPEN and len(value) <= _LONGEST_OPEN


def _plain(text: str) -> Any:
    try:
        text.encode()
    except UnicodeEncodeError:
        return {"base64": base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()}
    return text
