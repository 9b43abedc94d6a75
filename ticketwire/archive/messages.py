"""The archive of messages: batched idempotent writes, history by ticket, and the second witness's questions.

Nobody is ever shown a message that is not stored here first. Workers write and readers page with the same
class; they differ in the size of their pool.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from schemas.events import Confirmed
from schemas.message_id import MessageId
from ticketwire.archive import statements as sql
from ticketwire.archive.audit import Decision, append
from ticketwire.archive.database import Database, Record, open_database
from ticketwire.archive.rows import ArchiveRow, FoundMessage, Outcome, Stored, lower_bound, upper_bound
from ticketwire.errors import Rejected, Unavailable

# Never shown to anybody, so whoever was sent for it again may have its client_message_id.
_UNSEEN = ("held", "rejected")


class Archive:
    """See the module. Every method raises Unavailable when PostgreSQL is out of reach, and may be cancelled."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def store(self, rows: Sequence[ArchiveRow], decisions: Sequence[Decision | None] = ()) -> list[Stored]:
        """Store a batch in one transaction and say, row by row and in the same order, what became of it.

        *decisions*, if given, has an element for each row: what to write into the record if the row is new.

        Idempotent: the same batch may be stored any number of times, by several workers at once. Raises Rejected
        when PostgreSQL refuses the batch for good, without having stored any of it: bisect to find the row.
        """
        if not rows:
            return []
        if any(decisions):
            async with self.database.transaction() as connection:
                fresh = await connection.fetchrow(sql.STORE, *_columns(rows))
                new = _new_ids(rows, fresh)
                await append(connection, [d for row, d in zip(rows, decisions, strict=True) if d and row[:3] in new])
        else:
            fresh = await self.database.fetchrow(sql.STORE, *_columns(rows))
        assert fresh is not None  # an aggregate without GROUP BY
        if fresh["count"] == len(rows):
            return [Stored(Outcome.NEW, row) for row in rows]
        return await self._settle(rows, _new_ids(rows, fresh))

    async def _settle(self, rows: Sequence[ArchiveRow], fresh: set[tuple[str, int, int]]) -> list[Stored]:
        """Find out what stands where the rows that were not inserted should be; *fresh* are those that were."""
        result: dict[int, Stored] = {}
        unsettled: list[int] = []
        for nr, row in enumerate(rows):
            if row[:3] in fresh:
                fresh.discard(row[:3])  # the same id once more in one batch is a repeat
                result[nr] = Stored(Outcome.NEW, row)
            else:
                unsettled.append(nr)
        ids = [rows[nr][:3] for nr in unsettled]
        for record in await self.database.fetch(sql.READ_BACK, *zip(*ids, strict=True)):
            result[unsettled[record[0] - 1]] = Stored(Outcome.REPEAT, ArchiveRow(*record[1:]))
        unsettled = [nr for nr in unsettled if nr not in result]
        if unsettled:
            keys = [(rows[nr].ticket_id, rows[nr].sender_id, rows[nr].client_message_id) for nr in unsettled]
            for record in await self.database.fetch(sql.HOLDERS, *zip(*keys, strict=True)):
                nr = unsettled[record["nr"] - 1]
                result[nr] = await self._judge_holder(rows[nr], record)
        if len(result) < len(rows):
            # Whatever stood in the way has been removed between the two statements (an erasure).
            raise Unavailable("the archive changed while a batch was stored")
        return [result[nr] for nr in range(len(rows))]

    async def _judge_holder(self, row: ArchiveRow, holder: Record) -> Stored:
        """Say what *row* is, given who holds its client_message_id."""
        holder_id = MessageId(holder["id_ms"], holder["id_seq"])
        if row.original_id != str(holder_id) or holder["status"] not in _UNSEEN:
            return Stored(Outcome.DUPLICATE, row, holder_id)
        # The holder is what this message was before somebody approved it: not a second message.
        async with self.database.transaction() as connection:
            await connection.execute(sql.FREE_KEY, row.ticket_id, *holder_id, row.client_message_id)
            fresh = await connection.fetchrow(sql.STORE, *([value] for value in row))
        if fresh is not None and fresh["count"]:
            return Stored(Outcome.NEW, row)
        return (await self.store([row]))[0]  # another worker was as quick: it is a repeat by now

    async def rename(self, ticket: str, old: MessageId, new: MessageId) -> None:
        """Note that the log took message *old* under the id *new*. May be repeated.

        The message lives at *new* from then on, with its first id as `original_id`. Its old place stays taken,
        so that a repeat of *old* is still recognised. Raises Rejected if *old* is unknown or *new* is taken.
        """
        async with self.database.transaction() as connection:
            row = await connection.fetchrow(sql.LOCK, ticket, *old)
            if row is not None and row["moved_to"] is not None:
                if row["moved_to"] == str(new):
                    return
                old = MessageId.parse(row["moved_to"])
                row = await connection.fetchrow(sql.LOCK, ticket, *old)
            if row is None:
                raise Rejected("not_found", f"message {old} of ticket {ticket} is not in the archive")
            await connection.execute(sql.COPY, ticket, *old, *new, str(old))
            await connection.execute(sql.LEAVE, ticket, *old, str(new))
            await connection.execute(sql.FOLLOW, ticket, str(old), str(new))
            await connection.execute(sql.TAKE_KEY, ticket, *new, row["client_message_id"])

    async def history(
        self, ticket: str, before: MessageId | None = None, after: MessageId | None = None, *, limit: int
    ) -> list[Confirmed]:
        """Return at most *limit* shown messages, oldest first; both bounds are exclusive.

        With *after* those that follow it most closely, else those that precede *before*, or the end, most closely.
        """
        low = lower_bound(after) if after is not None else None
        high = upper_bound(before) if before is not None else None
        if after is not None:
            if low is None:
                return []
            if high is not None:
                records = await self.database.fetch(sql.HISTORY_BETWEEN, ticket, limit, *low, *high)
            else:
                records = await self.database.fetch(sql.HISTORY_AFTER, ticket, limit, *low)
        else:
            if high is not None:
                records = await self.database.fetch(sql.HISTORY_BEFORE, ticket, limit, *high)
            else:
                records = await self.database.fetch(sql.HISTORY_NEWEST, ticket, limit)
            records = records[::-1]
        return [ArchiveRow(*record).to_confirmed() for record in records]

    async def logged_between(self, ticket: str, after: MessageId, before: MessageId, *, limit: int) -> list[Confirmed]:
        """Return the oldest *limit* entries of a ticket's log between two positions: messages and their changes."""
        low, high = lower_bound(after), upper_bound(before) or MessageId(2**63 - 1, 2**63 - 1)
        if low is None:
            return []
        records = await self.database.fetch(sql.LOGGED_BETWEEN, ticket, limit, *low, *high)
        return [ArchiveRow(*record).to_confirmed() for record in records]

    async def change(self, row: ArchiveRow) -> bool:
        """Carry out a change: *row* is its own (status `deletion` or `update`), its target `original_id`.

        The target's text is gone, or is the row's from then on. May be repeated. False when there is nothing to
        change: the target is unknown, deleted or moved.
        """
        target = MessageId.parse(str(row.original_id))
        text = row.body if row.status == "update" else None
        async with self.database.transaction() as connection:
            fresh = await connection.fetchrow(sql.STORE, *_columns([row]))
            if fresh is None or not fresh["count"]:
                return True  # a repeat
            if target.storable:
                tag = await connection.execute(sql.CHANGE_TARGET, row.ticket_id, *target, text)
                if tag != "UPDATE 0":
                    return True
            await connection.execute(sql.FORGET, *row[:3])
        return False

    async def find(self, ticket: str, message_id: MessageId, *, with_body: bool = False) -> FoundMessage | None:
        """Return what is known of one message, whatever its status, or None. Follows a rename."""
        while message_id.storable:
            record = await self.database.fetchrow(sql.FIND, ticket, *message_id, with_body)
            if record is None:
                return None
            if record["moved_to"] is None:
                return FoundMessage(record["ticket_id"], message_id, *record[3:-1])
            message_id = MessageId.parse(record["moved_to"])
        return None

    async def newest(self, ticket: str, before: MessageId | None = None) -> MessageId | None:
        """Return the id of the newest entry of *ticket*'s log that the archive has, of those before *before*.

        It may be archived and not yet confirmed.
        """
        high = upper_bound(before) if before is not None else None
        if high is not None:
            return _id(await self.database.fetchrow(sql.NEWEST_BEFORE, ticket, *high))
        return _id(await self.database.fetchrow(sql.NEWEST_OF_TICKET, ticket))

    async def newest_of_partition(self, partition: int) -> MessageId | None:
        """Return the newest id the archive holds of *partition*, whatever its status.

        A partition's watermark below it means that Redis lost what it had confirmed; its stream must not give
        out this id or an older one again, or a new message would be taken for a repeat.
        """
        return _id(await self.database.fetchrow(sql.NEWEST_OF_PARTITION, partition))

    async def confirmed_after(self, partition: int, after: MessageId, limit: int) -> list[ArchiveRow]:
        """Return the oldest *limit* shown messages of *partition* above *after*, in order: what to confirm again."""
        low = lower_bound(after)
        if low is None:
            return []
        return [
            ArchiveRow(*record) for record in await self.database.fetch(sql.CONFIRMED_AFTER, partition, *low, limit)
        ]

    async def judged_after(self, partition: int, after: MessageId, limit: int) -> list[ArchiveRow]:
        """Return the oldest *limit* messages of *partition* above *after*, whatever the verdict was, in order."""
        records = await self.database.fetch(sql.JUDGED_AFTER, partition, *after, limit)
        return [ArchiveRow(*record) for record in records]

    async def partitions(self) -> int:
        """Return one more than the highest partition the archive has a message of."""
        record = await self.database.fetchrow(sql.PARTITIONS)
        return int(record["count"]) if record is not None else 0

    async def ping(self) -> None:
        """Return if PostgreSQL answers a statement."""
        await self.database.fetchrow("SELECT 1")

    async def check_schema(self) -> None:
        """Return if `ticketwire migrate` was run; see `Database.check_schema`."""
        await self.database.check_schema()


def _new_ids(rows: Sequence[ArchiveRow], fresh: Record | None) -> set[tuple[str, int, int]]:
    """Return the ids of the rows that were inserted, from STORE's answer."""
    assert fresh is not None  # an aggregate without GROUP BY
    count, tickets, ms, seqs = fresh
    if count == len(rows):
        return {row[:3] for row in rows}
    return set(zip(tickets or (), ms or (), seqs or (), strict=True))


def _columns(rows: Sequence[ArchiveRow]) -> list[Sequence[object]]:
    """Turn rows into columns. One of nothing but NULL is sent empty: unnest pads it, and asyncpg looks at each
    element several times (a tenth of a worker's time).
    """
    return [column if any(column) else _shortest(column) for column in zip(*rows, strict=True)]


def _shortest(column: Sequence[object]) -> Sequence[object]:
    return () if all(value is None for value in column) else column


def _id(record: Record | None) -> MessageId | None:
    return None if record is None else MessageId(*record)


@asynccontextmanager
async def open_archive(database_url: str, *, size: int = 2, timeout_s: float = 10.0) -> AsyncIterator[Archive]:
    """Open an archive with at most *size* connections; nothing is connected before the first call.

    *timeout_s* limits the wait for a free connection, connecting, and each statement. A worker needs one
    connection per batch in flight; more make one PostgreSQL no faster.
    """
    async with open_database(database_url, size=size, timeout_s=timeout_s) as database:
        yield Archive(database)
