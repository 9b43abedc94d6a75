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


def fields_json(fields: Sequence[str]) -> list[list[Any]]:
    """Name and value of each field; what is not UTF-8 as `{"base64": …}`."""
    return [[_plain(name), _plain(value)] for name, value in zip(fields[::2], fields[1::2], strict=False)]


def _plain(text: str) -> Any:
    try:
        text.encode()
    except UnicodeEncodeError:
        return {"base64": base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()}
    return text
