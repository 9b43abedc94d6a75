"""Dead letters in PostgreSQL: a copy of each before it leaves Redis, and what became of it.

A letter that still lies in Redis is alive, whatever its row says: a row without `purged_at` and `replayed_at` is a
copy made by somebody who may have died before going on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from schemas.events import ID_PATTERN
from schemas.message_id import MessageId
from ticketwire.archive.database import Database, Record

_KEEP: Final = """
INSERT INTO dead_letters (partition, dead_id_ms, dead_id_seq, original_id, ticket_id, reason, error, error_class,
                          stage, attempts, first_at, last_at, worker, trace_id, field_names, field_values)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, to_timestamp($11::bigint / 1000.0), to_timestamp($12::bigint / 1000.0),
        $13, $14, $15, $16)
ON CONFLICT DO NOTHING
"""
_GIVEN: Final = "unnest($1::integer[], $2::numeric[], $3::numeric[]) AS given (partition, dead_id_ms, dead_id_seq)"
_REPLAYED: Final = f"""
SELECT partition, dead_id_ms, dead_id_seq, replayed_as
FROM dead_letters JOIN {_GIVEN} USING (partition, dead_id_ms, dead_id_seq) WHERE replayed_as IS NOT NULL
"""  # noqa: S608
_PURGED: Final = f"""
UPDATE dead_letters AS d SET purged_at = now(), actor = $4, why = $5
FROM {_GIVEN}
WHERE (d.partition, d.dead_id_ms, d.dead_id_seq) = (given.partition, given.dead_id_ms, given.dead_id_seq)
  AND d.replayed_at IS NULL
"""  # noqa: S608
_SENT: Final = """
UPDATE dead_letters
SET replayed_at = to_timestamp($4::bigint / 1000.0), replayed_as = $5, actor = $6, why = $7, purged_at = NULL
WHERE (partition, dead_id_ms, dead_id_seq) = ($1, $2, $3)
RETURNING 1
"""
_ARCHIVED: Final = """
SELECT given.nr
FROM unnest($1::text[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS given (ticket_id, id_ms, id_seq, nr)
JOIN messages USING (ticket_id, id_ms, id_seq)
"""
_COLUMNS: Final = """
SELECT partition, dead_id_ms, dead_id_seq, original_id, ticket_id, reason, error, error_class, stage, attempts,
       floor(extract(epoch FROM first_at) * 1000)::bigint AS first_at_ms,
       floor(extract(epoch FROM last_at) * 1000)::bigint AS last_at_ms, worker, trace_id, field_names, field_values,
       floor(extract(epoch FROM purged_at) * 1000)::bigint AS purged_at_ms,
       floor(extract(epoch FROM replayed_at) * 1000)::bigint AS replayed_at_ms, replayed_as, actor, why
FROM dead_letters
"""
_BY_ID: Final = _COLUMNS + " WHERE (partition, dead_id_ms, dead_id_seq) = ($1, $2, $3)"
_BY_ENTRY: Final = _COLUMNS + " WHERE partition = $1 AND original_id = $2 ORDER BY dead_id_ms, dead_id_seq LIMIT 100"


class LetterCopy(NamedTuple):
    """A letter as it is kept."""

    partition: int
    letter_id: MessageId
    entry_id: str
    ticket: str  # as the entry names it
    reason: str
    error: str
    error_class: str
    stage: str
    attempts: int
    first_at_ms: int
    last_at_ms: int
    worker: str
    trace_id: str
    fields: Sequence[str]  # field, value, …; bytes that are not UTF-8 as lone surrogates


class KeptLetter(NamedTuple):
    """A letter that PostgreSQL knows."""

    copy: LetterCopy
    purged_at_ms: int | None
    replayed_at_ms: int | None
    replayed_as: str | None
    actor: str | None
    why: str | None


class LetterArchive:
    """See the module. Every method raises Unavailable when PostgreSQL is out of reach."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(self, copies: Sequence[LetterCopy]) -> dict[tuple[int, MessageId], str]:
        """Store copies; those stored before stay as they are. Returns, by letter, what some were sent as earlier."""
        async with self._database.transaction() as connection:
            await connection.executemany(_KEEP, [_row(copy) for copy in copies])
        return await self.earlier(copies)

    async def earlier(self, copies: Sequence[LetterCopy]) -> dict[tuple[int, MessageId], str]:
        """Return, by letter, what some were sent as earlier, though they lie in Redis: it was restored since."""
        records = await self._database.fetch(_REPLAYED, *_keys([(c.partition, c.letter_id) for c in copies]))
        return {_key(record): record["replayed_as"] for record in records}

    async def purging(self, copies: Sequence[LetterCopy], actor: str, why: str) -> None:
        """Store copies and note that they are being removed from Redis."""
        async with self._database.transaction() as connection:
            await connection.executemany(_KEEP, [_row(copy) for copy in copies])
            await connection.execute(_PURGED, *_keys([(c.partition, c.letter_id) for c in copies]), actor, why)

    async def sent(
        self, partition: int, letter_id: MessageId, *, new_id: str, at_ms: int, actor: str, why: str
    ) -> bool:
        """Note what a letter was sent as; False when there is no copy of it. May be repeated."""
        found = await self._database.fetchrow(_SENT, partition, *letter_id, at_ms, new_id, actor, why)
        return found is not None

    async def archived(self, messages: Sequence[tuple[str, MessageId]]) -> set[tuple[str, MessageId]]:
        """Return those of *messages* (ticket, id) that the archive holds, whatever their status."""
        askable = [one for one in messages if one[1].storable and re.fullmatch(ID_PATTERN, one[0])]
        if not askable:
            return set()
        columns = zip(*((ticket, *message_id) for ticket, message_id in askable), strict=True)
        return {askable[record["nr"] - 1] for record in await self._database.fetch(_ARCHIVED, *columns)}

    async def get(self, partition: int, letter_id: MessageId) -> KeptLetter | None:
        record = await self._database.fetchrow(_BY_ID, partition, *letter_id)
        return None if record is None else _kept(record)

    async def of_entry(self, partition: int, entry_id: str) -> list[KeptLetter]:
        """Return the letters of an entry, which is one unless Redis lost data."""
        return [_kept(record) for record in await self._database.fetch(_BY_ENTRY, partition, entry_id)]


def _keys(letters: Sequence[tuple[int, MessageId]]) -> tuple[list[int], list[int], list[int]]:
    return [p for p, _ in letters], [i.ms for _, i in letters], [i.seq for _, i in letters]


def _key(record: Record) -> tuple[int, MessageId]:
    return record["partition"], MessageId(int(record["dead_id_ms"]), int(record["dead_id_seq"]))


def _row(copy: LetterCopy) -> tuple[Any, ...]:
    ticket = copy.ticket if re.fullmatch(ID_PATTERN, copy.ticket) else None
    as_bytes = [text.encode("utf-8", "surrogateescape") for text in copy.fields]
    names = as_bytes[::2]
    values = as_bytes[1::2] + [b""] * (len(as_bytes) % 2)
    texts = (copy.reason, copy.error, copy.error_class, copy.stage)
    times = (_time(copy.first_at_ms), _time(copy.last_at_ms))
    return (
        *(copy.partition, *copy.letter_id, copy.entry_id, ticket, *map(_text, texts), min(copy.attempts, 2**31 - 1)),
        *(*times, _text(copy.worker), _text(copy.trace_id) or None, names, values),
    )


def _time(ms: int) -> int:
    """PostgreSQL's years end at 294276; an id given by hand may say anything."""
    return max(0, min(ms, 9_000_000_000_000_000))


def _text(text: str) -> str:
    """PostgreSQL's texts hold neither lone surrogates nor NUL."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def _kept(record: Record) -> KeptLetter:
    pairs = zip(record["field_names"], record["field_values"], strict=True)
    fields = [one.decode("utf-8", "surrogateescape") for pair in pairs for one in pair]
    partition, letter_id = _key(record)
    same = ("reason", "error", "error_class", "stage", "attempts", "first_at_ms", "last_at_ms", "worker")
    copy = LetterCopy(
        partition=partition,
        letter_id=letter_id,
        entry_id=record["original_id"],
        ticket=record["ticket_id"] or "",
        trace_id=record["trace_id"] or "",
        fields=fields,
        **{name: record[name] for name in same},
    )
    return KeptLetter(
        copy, *(record[name] for name in ("purged_at_ms", "replayed_at_ms", "replayed_as", "actor", "why"))
    )
