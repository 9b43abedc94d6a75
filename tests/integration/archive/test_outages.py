"""When PostgreSQL is away, slow or changes its role, callers learn so in time, and the next call finds it again."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import asyncpg
import pytest

from schemas.message_id import MessageId
from tests.until import scaled, until
from ticketwire.archive import migrate
from ticketwire.archive.messages import Archive, open_archive
from ticketwire.archive.rows import ArchiveRow, Outcome
from ticketwire.embedded.postgres_server import EmbeddedPostgres
from ticketwire.errors import SettingsError, Unavailable


def rows(first: int, number: int = 10) -> list[ArchiveRow]:
    return [ArchiveRow("7", 1, n, 3, "ann", "hello", "confirmed", 1_616_690_567) for n in range(first, first + number)]


async def backend(archive: Archive) -> int:
    record = await archive.database.fetchrow("SELECT pg_backend_pid()")
    assert record is not None
    return int(record[0])


async def count(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM messages"))
    finally:
        await connection.close()


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_a_killed_server_is_an_outage_and_its_return_ends_it(own_postgres: EmbeddedPostgres) -> None:
    """The same archive works on after a crash of PostgreSQL; what was stored is still there."""
    await migrate.upgrade_async(own_postgres.url)
    async with open_archive(own_postgres.url, size=2, timeout_s=scaled(5)) as archive:
        await archive.store(rows(0))
        assert own_postgres.process is not None
        own_postgres.process.kill()
        own_postgres.process.wait()

        async def out() -> bool:
            try:
                await archive.store(rows(0))
            except Unavailable:
                return True
            return False

        await until(out)  # a backend outlives the killed server by a moment, and may answer once more
        for _ in range(3):
            with pytest.raises(Unavailable):
                await archive.store(rows(5))
        with pytest.raises(Unavailable):
            await archive.ping()
        own_postgres.launch()
        own_postgres.wait_ready()

        async def stored() -> list[Outcome] | None:
            try:
                return [one.outcome for one in await archive.store(rows(5))]
            except Unavailable:  # the last connection may only now learn of its death
                return None

        assert await until(stored) == [Outcome.REPEAT] * 5 + [Outcome.NEW] * 5


async def test_an_archive_opens_before_its_server(own_postgres: EmbeddedPostgres) -> None:
    """A tier can start first; it is only not ready."""
    await migrate.upgrade_async(own_postgres.url)
    own_postgres.stop()
    async with open_archive(own_postgres.url, timeout_s=scaled(5)) as archive:
        with pytest.raises(Unavailable, match="ConnectionRefusedError"):
            await archive.check_schema()
        own_postgres.launch()
        own_postgres.wait_ready()
        await archive.check_schema()


async def test_a_closed_connection_is_replaced(archive: Archive) -> None:
    """A connection ended by the server (an idle timeout, an administrator) fails one call at the most."""
    doomed = await backend(archive)
    async with archive.database.connection() as other:
        assert await other.fetchval("SELECT pg_backend_pid()") == doomed
        with pytest.raises(asyncpg.PostgresError):
            await other.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    assert await backend(archive) != doomed
    assert (await archive.store(rows(0)))[0].outcome is Outcome.NEW


async def test_a_server_that_stops_answering_is_an_outage_within_the_timeout(postgres_url: str) -> None:
    """A statement that hangs ends with Unavailable, and the batch can be stored over another connection."""
    async with open_archive(postgres_url, size=1, timeout_s=1.0) as archive:
        pid = await backend(archive)
        with frozen(pid):
            started = time.monotonic()
            with pytest.raises(Unavailable, match="TimeoutError"):
                await archive.store(rows(0))
            # Once for the statement, once for the answer to its cancellation.
            assert time.monotonic() - started < scaled(3.0)
            assert [one.outcome for one in await archive.store(rows(0))] == [Outcome.NEW] * 10
    assert await count(postgres_url) == 10


async def test_a_server_that_stops_answering_does_not_hold_up_the_end(postgres_url: str) -> None:
    """A process told to stop ends within its deadline, even with a statement under way."""
    with ExitStack() as until_the_end:
        async with asyncio.timeout(scaled(6.0)), open_archive(postgres_url, size=1, timeout_s=1.0) as archive:
            until_the_end.enter_context(frozen(await backend(archive)))
            hanging = asyncio.create_task(archive.store(rows(0)))
            await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await hanging


async def test_waiting_for_a_free_connection_has_an_end(postgres_url: str) -> None:
    """More callers than connections wait their turn, but not for ever."""
    async with open_archive(postgres_url, size=1, timeout_s=0.5) as archive, archive.database.connection():
        with pytest.raises(Unavailable, match="TimeoutError"):
            await archive.ping()


async def test_a_cancelled_batch_leaves_the_archive_usable(postgres_url: str) -> None:
    """Cancelled while PostgreSQL waits for a lock: nothing is stored, and the one connection serves the next."""
    blocker = await asyncpg.connect(postgres_url)
    try:
        async with open_archive(postgres_url, size=1, timeout_s=scaled(10)) as archive:
            await archive.ping()
            async with blocker.transaction():
                await blocker.execute("LOCK TABLE messages")
                storing = asyncio.create_task(archive.store(rows(0)))

                async def waits() -> object:
                    return await blocker.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted")

                await until(waits)
                storing.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await storing
            assert await count(postgres_url) == 0
            assert [one.outcome for one in await archive.store(rows(0))] == [Outcome.NEW] * 10
    finally:
        await blocker.close()


async def test_batches_that_deadlock_are_stored_in_the_end(archive: Archive) -> None:
    """Two batches with the same rows in opposite order: the loser is told to try again, and nothing is lost."""
    batch = rows(0, 400)

    async def store(given: list[ArchiveRow]) -> int:
        while True:
            try:
                return sum(one.outcome is Outcome.NEW for one in await archive.store(given))
            except Unavailable:
                continue

    results = await asyncio.gather(*(store(given) for given in (batch, batch[::-1]) * 3))
    assert sum(results) == 400


async def test_after_a_failover_the_primary_is_found_again(postgres_url: str) -> None:
    """A server that became read-only is an outage, and its connections are given up: new ones find the primary."""
    async with open_archive(postgres_url, size=1, timeout_s=scaled(5)) as archive:
        before = await backend(archive)
        await archive.database.execute("SET default_transaction_read_only = on")
        with pytest.raises(Unavailable, match="ReadOnlySQLTransactionError"):
            await archive.store(rows(0))
        assert await backend(archive) != before
        assert (await archive.store(rows(0)))[0].outcome is Outcome.NEW


async def test_tables_that_are_missing_are_no_fault_of_the_message(bare_postgres_url: str) -> None:
    """To reject would bury every message while somebody forgot to migrate."""
    async with open_archive(bare_postgres_url, timeout_s=scaled(5)) as archive:
        with pytest.raises(Unavailable, match="UndefinedTableError"):
            await archive.store(rows(0))
        with pytest.raises(Unavailable):
            await archive.history("7", limit=1)
        with pytest.raises(SettingsError, match="run `ticketwire migrate`"):
            await archive.check_schema()


async def test_a_schema_change_under_way_does_not_break_a_running_tier(archive: Archive) -> None:
    """A migration adds a column while prepared statements are in use."""
    await archive.store(rows(0))
    assert await archive.find("7", MessageId(1, 0), with_body=True)
    await archive.database.execute("ALTER TABLE messages ADD COLUMN later text")
    await archive.database.execute("ALTER TABLE messages ALTER COLUMN status TYPE varchar(20)")
    found = await archive.find("7", MessageId(1, 0), with_body=True)
    assert found is not None
    assert found.status == "confirmed"
    assert len(await archive.store(rows(5))) == 10


async def test_a_wrong_password_is_an_outage_that_names_no_password(postgres_url: str) -> None:
    """It may have been changed a moment ago, with the new one still on its way to the pods."""
    scheme, _, place = postgres_url.partition("://")
    wrong = f"{scheme}://ticketwire:not-the-word@{place.partition('@')[2]}"
    async with open_archive(wrong, timeout_s=scaled(5)) as archive:
        with pytest.raises(Unavailable, match="InvalidPasswordError") as caught:
            await archive.ping()
        assert "not-the-word" not in str(caught.value)
