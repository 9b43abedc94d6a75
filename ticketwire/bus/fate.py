"""Where an accepted message lies in Redis: still on its ingest stream, or among the dead letters."""

from __future__ import annotations

import json
from dataclasses import dataclass

from schemas.message_id import MessageId
from ticketwire.bus.bus import Bus

PAGE = 100  # dead letters a reply may hold in the rare search below: each can be as large as a message
MOST_PAGES = 10  # so that asking for ids that never existed costs little


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What a sender may know of a buried message."""

    reason: str  # a code of `schemas.problems`
    error: str  # one sentence
    buried_at_ms: int  # Unix milliseconds


async def is_pending(bus: Bus, ticket: str, message_id: MessageId) -> bool:
    """Say whether the message is accepted and not yet settled."""
    stream = bus.keys.ingest(bus.keys.partition_of(ticket))
    found = await bus.command(stream, "XRANGE", stream, str(message_id), str(message_id))
    return bool(found) and _ticket_of(found[0][1]) == ticket


async def find_dead(bus: Bus, ticket: str, message_id: MessageId) -> DeadLetter | None:
    """Return the dead letter of a message of *ticket*.

    A letter has its entry's own id (confirm.lua), so it is found by it. Only where the stream of letters had run
    ahead of that id (a clock set back) was the letter appended under a later one: then the next
    letters, MOST_PAGES of them, are looked through.
    """
    dead = bus.keys.dead(bus.keys.partition_of(ticket))
    start = str(message_id)
    for number in range(MOST_PAGES + 1):
        page = await bus.command(dead, "XRANGE", dead, start, "+", "COUNT", PAGE if number else 1)
        if not page:
            return None
        for _, pairs in page:
            letter = dict(zip(pairs[::2], pairs[1::2], strict=True))
            if letter.get("entry_id") == str(message_id):
                fields = json.loads(letter["fields"])
                if _ticket_of(fields) != ticket:
                    return None
                return DeadLetter(letter["reason"], letter["error"], int(letter["last_at_ms"]))
        last = MessageId.parse(page[-1][0])
        start = f"{last.ms}-{last.seq + 1}"
    return None


def _ticket_of(fields: list[str]) -> str | None:
    return dict(zip(fields[::2], fields[1::2], strict=False)).get("ticket_id")
