"""What `ticketwire verify` asks of the archive. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from schemas.message_id import MessageId
from ticketwire.archive.database import Database
from ticketwire.archive.rows import lower_bound, upper_bound

_ROWS: Final = """
SELECT m.id_ms, m.id_seq, m.status, m.sender_id, m.body, extract(epoch FROM m.sent_at)::bigint AS sent_at
FROM unnest($2::bigint[], $3::bigint[]) AS given (id_ms, id_seq)
JOIN messages AS m ON m.ticket_id = $1 AND m.id_ms = given.id_ms AND m.id_seq = given.id_seq
"""
_SHOWN: Final = """
SELECT id_ms, id_seq FROM messages
WHERE ticket_id = $1 AND status IN ('confirmed', 'masked', 'deletion', 'update')
  AND (id_ms, id_seq) > ($2, $3) AND (id_ms, id_seq) < ($4, $5)
ORDER BY id_ms, id_seq LIMIT $6
"""


_UPDATED: Final = """
SELECT 1 FROM messages WHERE ticket_id = $1 AND original_id = $2 AND status = 'update' LIMIT 1
"""


class WitnessRow(NamedTuple):
    """What the archive says a message is."""

    status: str
    sender_id: str
    body: str
    sent_at: int  # Unix seconds


class Witness:
    """Every method raises Unavailable when PostgreSQL is out of reach."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def rows(self, ticket: str, ids: Sequence[MessageId]) -> dict[MessageId, WitnessRow]:
        """Return the rows of those of *ids* that the archive has."""
        askable = [one for one in ids if one.storable]
        records = await self._database.fetch(_ROWS, ticket, [i.ms for i in askable], [i.seq for i in askable])
        return {MessageId(record[0], record[1]): WitnessRow(*record[2:]) for record in records}

    async def updated(self, ticket: str, message_id: MessageId) -> bool:
        """Say whether a message's text was replaced: its first entry is then no longer in the log."""
        return await self._database.fetchrow(_UPDATED, ticket, str(message_id)) is not None

    async def shown_between(
        self, ticket: str, after: MessageId, before: MessageId | None, limit: int
    ) -> list[MessageId]:
        """Return the oldest *limit* ids of shown messages between two ids, both exclusive."""
        low = lower_bound(after)
        high = upper_bound(before) if before is not None else None
        if low is None:
            return []
        end = high if high is not None else MessageId(2**63 - 1, 2**63 - 1)
        records = await self._database.fetch(_SHOWN, ticket, *low, *end, limit)
        return [MessageId(*record) for record in records]
