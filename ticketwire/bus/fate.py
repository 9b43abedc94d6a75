"""Where an accepted message lies in Redis: still on its ingest stream, or among the dead letters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from schemas.message_id import MessageId
from ticketwire.bus.bus import Bus
from ticketwire.bus.connection import translate

PAGE = 100  # dead letters a reply may hold in the rare search below: each can be as large as a message
MOST_PAGES = 10  # so that asking for ids that never existed costs little


@dataclass(frozen=True, slots=True)
class Pending:
    """Accepted and not yet settled."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What a sender may know of a buried message."""

    reason: str  # a code of `schemas.problems`
    error: str  # one sentence
    buried_at_ms: int  # Unix milliseconds


async def locate(bus: Bus, ticket: str, message_id: MessageId) -> Pending | DeadLetter | None:
    """Say where a message of *ticket* lies; None when it was settled otherwise, or never accepted.

    A dead letter has its entry's own id (confirm.lua) and is written in the same script that takes the entry off the
    stream, so a message cannot slip past these two looks.
    """
    partition = bus.keys.partition_of(ticket)
    stream, dead, at = bus.keys.ingest(partition), bus.keys.dead(partition), str(message_id)
    found = await bus.call(stream, ("XRANGE", stream, at, at), ("XRANGE", dead, at, at))
    for reply in found:
        if isinstance(reply, ResponseError):
            raise translate(reply) from reply
    entries, letters = found
    if entries and _ticket_of(entries[0][1]) == ticket:
        return Pending()
    return _letter_of(letters, ticket, at)


async def search_dead(bus: Bus, ticket: str, message_id: MessageId) -> DeadLetter | None:
    """Look for a dead letter that could not have its entry's id, because the stream of letters had run ahead.

    That takes a clock set back. Such a letter was appended under a later id: the next letters, up to
    MOST_PAGES * PAGE, are looked through.
    """
    dead = bus.keys.dead(bus.keys.partition_of(ticket))
    after = message_id
    if not after.storable:  # Redis itself has no letter after the last id of all
        return None
    for _ in range(MOST_PAGES):
        page = await bus.command(dead, "XRANGE", dead, f"({after}", "+", "COUNT", PAGE)
        letter = _letter_of(page, ticket, str(message_id))
        if letter is not None or len(page) < PAGE:
            return letter
        after = MessageId.parse(page[-1][0])
    return None


def _letter_of(letters: Sequence[Any], ticket: str, entry_id: str) -> DeadLetter | None:
    for _, pairs in letters:
        letter = dict(zip(pairs[::2], pairs[1::2], strict=True))
        if letter["entry_id"] == entry_id and _ticket_of(json.loads(letter["fields"])) == ticket:
            return DeadLetter(letter["reason"], letter["error"], int(letter["last_at_ms"]))
    return None


def _ticket_of(fields: Sequence[str]) -> str | None:
    return dict(zip(fields[::2], fields[1::2], strict=False)).get("ticket_id")
