"""Batches go into the archive once, whoever stores them and however often."""

from __future__ import annotations

import asyncio
import random

import asyncpg
import pytest

from schemas.message_id import MessageId
from ticketwire.archive.messages import Archive
from ticketwire.archive.rows import ArchiveRow, Outcome, Stored
from ticketwire.errors import Rejected

NEW, REPEAT, DUPLICATE = Outcome.NEW, Outcome.REPEAT, Outcome.DUPLICATE


def row(number: int, **changes: object) -> ArchiveRow:
    """Message `1000-<number>` of ticket 7, with its own client_message_id."""
    given = ArchiveRow(
        ticket_id="7",
        id_ms=1_000,
        id_seq=number,
        partition=3,
        sender_id="ann",
        body=f"hello {number} żółw 🐢\n\t",
        status="confirmed",
        sent_at=1_616_690_567,
        client_message_id=f"key-{number}",
        trace_id="0" * 32,
    )
    return given._replace(**changes)  # type: ignore[arg-type]


def outcomes(stored: list[Stored]) -> list[Outcome]:
    return [one.outcome for one in stored]


async def count(archive: Archive) -> int:
    record = await archive.database.fetchrow("SELECT count(*) FROM messages")
    assert record is not None
    return int(record[0])


async def test_a_batch_of_new_messages_is_stored_as_given(archive: Archive) -> None:
    """Every field comes back as it went in."""
    rows = [
        row(1),
        row(2, status="masked", verdict='{"rule": "card"}', original_id="900-0", body="[card]"),
        row(3, client_message_id=None, trace_id=None, ticket_id="8", sent_at=0),
    ]
    assert await archive.store(rows) == [Stored(NEW, one) for one in rows]
    assert await archive.confirmed_after(3, MessageId(0, 0), 10) == rows


async def test_an_empty_batch_is_nothing(archive: Archive) -> None:
    """A worker whose batch was buried whole has nothing to archive."""
    assert await archive.store([]) == []


async def test_a_repeat_gets_back_what_was_stored_first(archive: Archive) -> None:
    """A repeat or a stale owner cannot publish another verdict than the one on record."""
    first = row(1, status="masked", body="my number is [phone]", verdict='{"rule": "phone"}')
    await archive.store([first])
    assert await archive.store([row(1, body="my number is 0123")]) == [Stored(REPEAT, first)]
    assert await count(archive) == 1


async def test_a_mixed_batch_is_told_apart_row_by_row(archive: Archive) -> None:
    """After a crash a batch is partly stored: each row gets its own answer, in the order given."""
    await archive.store([row(2), row(4)])
    batch = [row(1), row(2), row(3), row(4), row(5, client_message_id="key-2"), row(6)]
    stored = await archive.store(batch)
    assert outcomes(stored) == [NEW, REPEAT, NEW, REPEAT, DUPLICATE, NEW]
    assert [one.row for one in stored] == batch
    assert [one.duplicate_of for one in stored] == [None, None, None, None, MessageId(1_000, 2), None]
    assert await count(archive) == 5


async def test_the_same_key_twice_in_one_batch_is_one_message(archive: Archive) -> None:
    """A producer that wrote to the stream itself may repeat its key within one batch."""
    stored = await archive.store([row(1, client_message_id="k"), row(2, client_message_id="k")])
    assert outcomes(stored) == [NEW, DUPLICATE]
    assert stored[1].duplicate_of == MessageId(1_000, 1)


async def test_the_same_id_twice_in_one_batch_is_new_once(archive: Archive) -> None:
    """Counting what is new must come out right even then."""
    assert outcomes(await archive.store([row(1), row(1)])) == [NEW, REPEAT]
    assert await count(archive) == 1


async def test_keys_are_the_senders_own(archive: Archive) -> None:
    """Another sender or ticket may use the same client_message_id, and messages without one never collide."""
    rows = [
        row(1, client_message_id="k"),
        row(2, client_message_id="k", sender_id="bob"),
        row(3, client_message_id="k", ticket_id="8"),
        row(4, client_message_id=None),
        row(5, client_message_id=None),
    ]
    assert outcomes(await archive.store(rows)) == [NEW] * 5


async def test_any_sequence_of_batches_gets_the_answers_of_a_dictionary(archive: Archive) -> None:
    """Whatever batches repeat, overlap or collide: the archive answers as a dictionary with two keys would."""
    rng = random.Random(7)
    by_id: dict[tuple[str, int, int], ArchiveRow] = {}
    by_key: dict[tuple[str, str, str], MessageId] = {}

    def expect(one: ArchiveRow) -> Stored:
        if one[:3] in by_id:
            return Stored(REPEAT, by_id[one[:3]])
        key = (one.ticket_id, one.sender_id, one.client_message_id or "")
        if one.client_message_id and key in by_key:
            return Stored(DUPLICATE, one, by_key[key])
        by_id[one[:3]] = one
        by_key[key] = one.message_id
        return Stored(NEW, one)

    for n in range(150):
        batch = [
            row(
                number,
                ticket_id=rng.choice("78"),
                sender_id=rng.choice(["ann", "bob"]),
                body=f"batch {n}",
                client_message_id=rng.choice([None, f"k{rng.randrange(300)}"]),
            )
            for number in rng.sample(range(400), rng.randrange(1, 20))
        ]
        batch += rng.sample(batch, rng.randrange(min(3, len(batch))))
        expected = [expect(one) for one in batch]
        assert await archive.store(batch) == expected, n
    assert await count(archive) == len(by_id)


@pytest.mark.parametrize("status", ["held", "rejected"])
async def test_a_message_sent_again_takes_over_its_own_key(archive: Archive, status: str) -> None:
    """An approved message comes back under a new id with the key it was held with: it is no duplicate."""
    await archive.store([row(1, status=status, client_message_id="k")])
    again = row(9, client_message_id="k", original_id="1000-1")
    assert await archive.store([again]) == [Stored(NEW, again)]
    assert outcomes(await archive.store([again])) == [REPEAT]
    found = await archive.find("7", MessageId(1_000, 1))
    assert found is not None
    assert (found.status, found.client_message_id) == (status, None)
    # Approved twice by two people at once: the second one is a duplicate.
    assert outcomes(await archive.store([row(10, client_message_id="k", original_id="1000-1")])) == [DUPLICATE]


async def test_a_message_already_shown_cannot_come_back_under_a_new_id(archive: Archive) -> None:
    """A replay of a letter whose message is in the archive as confirmed would show it twice."""
    await archive.store([row(1, client_message_id="k")])
    stored = await archive.store([row(9, client_message_id="k", original_id="1000-1")])
    assert stored == [Stored(DUPLICATE, row(9, client_message_id="k", original_id="1000-1"), MessageId(1_000, 1))]


async def test_workers_storing_the_same_batch_at_once_store_it_once(archive: Archive) -> None:
    """A stale owner and its successor meet in the archive: each row is new for exactly one of them."""
    batch = [row(n) for n in range(200)]
    results = await asyncio.gather(*(archive.store(batch) for _ in range(4)))
    for nr in range(200):
        assert sorted(result[nr].outcome.value for result in results) == ["new", "repeat", "repeat", "repeat"]
    assert await count(archive) == 200


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({"body": "a\x00b"}, id="NUL"),
        pytest.param({"body": "a\ud800b"}, id="lone surrogate"),
        pytest.param({"id_ms": 2**63}, id="id beyond bigint"),
        pytest.param({"id_ms": -1}, id="negative id"),
        pytest.param({"status": "unheard-of"}, id="unknown status"),
        pytest.param({"sent_at": 10**17}, id="time beyond the calendar"),
        pytest.param({"sent_at": 2**64}, id="time beyond bigint"),
        pytest.param({"verdict": "{not json"}, id="verdict that is no JSON"),
        pytest.param({"body": 5}, id="body that is no text"),
        pytest.param({"partition": 2**31}, id="partition beyond integer"),
        # Random, because PostgreSQL compresses what it can before it looks at the size.
        pytest.param({"client_message_id": random.Random(1).randbytes(10_000).hex()}, id="key too wide for its index"),
    ],
)
async def test_what_postgresql_refuses_is_rejected_without_quoting_it(archive: Archive, bad: dict[str, object]) -> None:
    """No retry would cure it; nothing of the batch is stored, and the pool works on. The error holds no body."""
    with pytest.raises(Rejected) as caught:
        await archive.store([row(1), row(2, **{"body": "very private", **bad}), row(3)])
    assert caught.value.code == "archive_refused"
    assert "private" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert await count(archive) == 0
    assert outcomes(await archive.store([row(1), row(3)])) == [NEW, NEW]


async def test_the_table_can_be_divided_by_ticket(archive: Archive) -> None:
    """Every key starts with ticket_id, so hash partitions need no change of a key or a statement."""
    async with archive.database.transaction() as connection:
        await connection.execute("ALTER TABLE messages RENAME TO undivided")
        await connection.execute("CREATE TABLE messages (LIKE undivided INCLUDING ALL) PARTITION BY HASH (ticket_id)")
        for n in range(4):
            await connection.execute(
                f"CREATE TABLE messages_{n} PARTITION OF messages FOR VALUES WITH (MODULUS 4, REMAINDER {n})"
            )
    batch = [row(n, ticket_id=f"t{n % 10}") for n in range(100)]
    assert outcomes(await archive.store(batch)) == [NEW] * 100
    assert outcomes(await archive.store([*batch, row(200, ticket_id="t1", client_message_id="key-1")])) == [
        *[REPEAT] * 100,
        DUPLICATE,
    ]
    assert await archive.newest_of_partition(3) == MessageId(1_000, 99)
    assert [one.message_id for one in await archive.history("t4", limit=2)] == ["1000-84", "1000-94"]


async def test_the_table_guards_its_own_rules(postgres_url: str) -> None:
    """What bypasses this code meets them as well."""
    connection = await asyncpg.connect(postgres_url)
    try:
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute(
                "INSERT INTO messages (ticket_id, id_ms, id_seq, partition, sender_id, body, status, sent_at) "
                "VALUES ('1', 1, 1, 1, 'a', 'b', 'unheard-of', now())"
            )
    finally:
        await connection.close()
