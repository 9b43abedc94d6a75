"""The record of decisions: who did what to what, when and why, in a chain that shows a removed or changed row.

Each row's hash covers its content and the hash of the row before. A changed row no longer matches its own hash, a
removed or inserted one breaks its neighbour's, and a removed end is missed by `audit_head`. Whoever can write
to the database and knows this file can still forge the whole chain: keep the head that `verify_chain` returns
somewhere else now and then, and compare.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from ticketwire.archive.database import Connection, Database

_VERSION: Final = "ticketwire-audit-1"
_START: Final = bytes(32)  # the hash before the first row
_PAGE: Final = 1_000  # rows held at once while verifying

# The row lock makes writers wait for each other, so the chain cannot fork. PostgreSQL's clock, and its own text of
# the JSON (it reorders keys and rewrites numbers): the hash must cover what a reader will get back.
_HEAD: Final = """
SELECT id, hash, to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS at,
       (SELECT array_agg(d::text ORDER BY nr) FROM unnest($1::jsonb[]) WITH ORDINALITY AS given (d, nr)) AS details
FROM audit_head FOR UPDATE
"""
_APPEND: Final = """
INSERT INTO audit (id, at, actor, action, subject, why, detail, prev_hash, hash)
SELECT id, at::timestamptz, actor, action, subject, why, detail, prev_hash, hash
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::jsonb[], $8::bytea[],
            $9::bytea[]) AS given (id, at, actor, action, subject, why, detail, prev_hash, hash)
"""
_MOVE_HEAD: Final = "UPDATE audit_head SET id = $1, hash = $2"
_READ: Final = """
SELECT id, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS at, actor, action, subject, why,
       detail::text AS detail, prev_hash, hash
FROM audit ORDER BY id
"""
_PAGE_OF: Final = """
SELECT id AS number, floor(extract(epoch FROM at) * 1000)::bigint AS at_ms, actor, action, subject, why,
       detail::text AS detail
FROM audit
WHERE id < $1 AND ($3::text IS NULL OR actor = $3) AND ($4::text IS NULL OR action = $4)
  AND ($5::text IS NULL OR subject = $5)
ORDER BY id DESC LIMIT $2
"""


class Decision(NamedTuple):
    """One thing to record."""

    actor: str  # a person, a key's name, or `rule@version`
    action: str  # a verb: `held`, `approve`, `replay`, `purge`
    subject: str  # `message 12345/1616690567456-0`, `partition 3`
    why: str
    detail: Mapping[str, Any]  # JSON; never a body or a token


class Recorded(NamedTuple):
    """One row of the record."""

    number: int  # in the chain
    at_ms: int  # Unix milliseconds, PostgreSQL's clock
    actor: str
    action: str
    subject: str
    why: str
    detail: Any  # what was recorded, from JSON


@dataclass(slots=True)
class ChainReport:
    """What `verify_chain` found."""

    rows: int
    head: str  # hash of the last row, hexadecimal
    broken: list[str] = field(default_factory=list)  # one sentence per damage; empty: the chain is whole

    @property
    def whole(self) -> bool:
        return not self.broken


async def append(connection: Connection, decisions: Sequence[Decision]) -> int:
    """Append decisions inside the caller's transaction, so that the deed and its record stand or fall together.

    Every other writer of the record waits until that transaction ends.
    """
    details = [json.dumps(one.detail, ensure_ascii=False, allow_nan=False) for one in decisions]
    head = await connection.fetchrow(_HEAD, details)
    assert head is not None  # the migration put it there, and nothing removes it
    number, previous = head["id"], head["hash"]
    rows: list[tuple[Any, ...]] = []
    for one, detail in zip(decisions, head["details"] or (), strict=True):
        number += 1
        content = (number, head["at"], one.actor, one.action, one.subject, one.why, detail)
        hashed = chain_hash(previous, content)
        rows.append((*content, previous, hashed))
        previous = hashed
    if rows:
        await connection.execute(_APPEND, *zip(*rows, strict=True))
        await connection.execute(_MOVE_HEAD, number, previous)
    return int(number)


class Audit:
    """Append to the chain, and prove it. Raises Unavailable when PostgreSQL is out of reach."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, actor: str, action: str, subject: str, why: str, detail: Mapping[str, Any]) -> int:
        """Append one decision and return its number in the chain."""
        return await self.record_all([Decision(actor, action, subject, why, detail)])

    async def record_all(self, decisions: Sequence[Decision]) -> int:
        """Append decisions in order, all or none, and return the number of the last.

        Writers of all processes wait for each other, so many decisions belong in one call.
        """
        async with self._database.transaction() as connection:
            return await append(connection, decisions)

    async def page(
        self,
        before: int | None = None,
        *,
        limit: int,
        actor: str | None = None,
        action: str | None = None,
        subject: str | None = None,
    ) -> list[Recorded]:
        """Return at most *limit* rows, newest first, whose number is below *before*."""
        end = 2**63 - 1 if before is None else before
        records = await self._database.fetch(_PAGE_OF, end, limit, actor, action, subject)
        return [Recorded(**{**record, "detail": json.loads(record["detail"])}) for record in records]

    async def verify_chain(self) -> ChainReport:
        """Read the whole chain as of one moment and name every place where it is broken."""
        async with (
            self._database.connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            head = await connection.fetchrow("SELECT id, hash FROM audit_head")
            report = ChainReport(rows=0, head="")
            last, previous = 0, _START
            async for row in connection.cursor(_READ, prefetch=_PAGE):
                report.rows += 1
                if row["id"] != last + 1:
                    report.broken.append(_gap(last + 1, row["id"] - 1))
                elif row["prev_hash"] != previous:
                    report.broken.append(f"row {row['id']} does not follow row {last}")
                if row["hash"] != chain_hash(row["prev_hash"], tuple(row)[:7]):
                    report.broken.append(f"row {row['id']} was changed")
                last, previous = row["id"], row["hash"]
            report.head = previous.hex()
            if head is None:
                report.broken.append("the head of the chain is missing")
            elif head["id"] > last:
                report.broken.append(_gap(last + 1, head["id"]))
            elif head["id"] < last:
                report.broken.append(f"the chain ends with row {last}, but its head says row {head['id']}")
            elif head["hash"] != previous:
                report.broken.append(f"row {last} is not the one that the head of the chain was made for")
        return report


def chain_hash(previous: bytes, content: Sequence[int | str]) -> bytes:
    """Hash id, time, actor, action, subject, why and detail of a row, and the *previous* row's hash.

    As a JSON list, so that no two different rows read the same.
    """
    text = json.dumps([_VERSION, previous.hex(), *content], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()


def _gap(first: int, last: int) -> str:
    return f"row {first} is missing" if first == last else f"rows {first} to {last} are missing"
