"""A database comes to the newest schema by one command, and nobody works on an older one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from alembic.script import ScriptDirectory

from ticketwire.archive import migrate
from ticketwire.archive.database import head
from ticketwire.embedded.postgres_server import EmbeddedPostgres
from ticketwire.embedded.process import free_port
from ticketwire.errors import SettingsError, Unavailable


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def tables(url: str) -> set[str]:
    async with connected(url) as connection:
        return {row[0] for row in await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}


async def test_an_unmigrated_database_is_refused_with_one_line(bare_postgres_url: str) -> None:
    """The line says what to do."""
    with pytest.raises(SettingsError) as caught:
        await migrate.check(bare_postgres_url)
    assert caught.value.detail == (f"the database has no tables of ours, {head()} is needed: run `ticketwire migrate`")


async def test_an_older_schema_is_refused_and_a_newer_one_is_not(postgres_url: str) -> None:
    """During a rolling update the tiers of the version before run on the new schema."""
    async with connected(postgres_url) as connection:
        await connection.execute("UPDATE alembic_version SET version_num = '0000'")
        with pytest.raises(SettingsError, match=f"schema is at 0000, {head()} is needed: run `ticketwire migrate`"):
            await migrate.check(postgres_url)
        await connection.execute("UPDATE alembic_version SET version_num = '9999'")
        await migrate.check(postgres_url)


def test_migrating_twice_is_the_same_as_once(bare_postgres_url: str) -> None:
    """A deployment may run the job again; data stays."""
    migrate.upgrade(bare_postgres_url)

    async def insert() -> None:
        async with connected(bare_postgres_url) as connection:
            await connection.execute("UPDATE audit_head SET id = 42")

    async def read() -> int:
        async with connected(bare_postgres_url) as connection:
            return int(await connection.fetchval("SELECT id FROM audit_head"))

    asyncio.run(insert())
    migrate.upgrade(bare_postgres_url)
    assert asyncio.run(read()) == 42
    asyncio.run(migrate.check(bare_postgres_url))


def test_several_processes_may_migrate_at_once(bare_postgres_url: str) -> None:
    """Every pod of a deployment may bring the migration along: one does it, the others wait and find it done."""
    code = "import sys; from ticketwire.archive.migrate import upgrade; upgrade(sys.argv[1])"
    running = [
        subprocess.Popen([sys.executable, "-c", code, bare_postgres_url], stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    ends = [(process.communicate(timeout=60)[1], process.returncode) for process in running]
    assert ends == [("", 0)] * 4
    asyncio.run(migrate.check(bare_postgres_url))


async def test_a_migration_that_fails_leaves_nothing_behind(bare_postgres_url: str) -> None:
    """All of it or nothing: a table of somebody else's in the way does not leave half a schema."""
    async with connected(bare_postgres_url) as connection:
        await connection.execute("CREATE TABLE dead_letters (somebody_elses text)")
    with pytest.raises(Exception, match='relation "dead_letters" already exists'):
        await migrate.upgrade_async(bare_postgres_url)
    assert await tables(bare_postgres_url) == {"dead_letters"}
    async with connected(bare_postgres_url) as connection:
        await connection.execute("DROP TABLE dead_letters")
    await migrate.upgrade_async(bare_postgres_url)
    ours = {"messages", "audit", "audit_head", "dead_letters", "reviews", "mutes", "alembic_version"}
    assert await tables(bare_postgres_url) == ours


async def test_a_schema_from_the_future_is_left_alone(postgres_url: str) -> None:
    """An old `ticketwire migrate` must not touch what it does not know."""
    async with connected(postgres_url) as connection:
        await connection.execute("UPDATE alembic_version SET version_num = '9999'")
        with pytest.raises(SettingsError, match=r"not one this version knows.*9999"):
            await migrate.upgrade_async(postgres_url)
        assert await connection.fetchval("SELECT version_num FROM alembic_version") == "9999"


async def test_nobody_there_is_an_outage_and_passes(bare_postgres_url: str) -> None:
    """Whoever starts everything at once may simply try again."""
    nowhere = f"postgresql://ann:secret@127.0.0.1:{free_port()}/x"
    for attempt in (migrate.upgrade_async, migrate.check):
        with pytest.raises(Unavailable) as caught:
            await attempt(nowhere)
        assert "secret" not in str(caught.value)
    # A database that nobody has made yet passes as well.
    with pytest.raises(Unavailable, match="InvalidCatalogNameError"):
        await migrate.upgrade_async(bare_postgres_url + "_missing")


@pytest.mark.parametrize("url", ["postgresql://ann:123x/cret@h:1/x", "postgresql://h/x?sslmode=perhaps"])
async def test_a_url_that_cannot_be_read_is_a_wrong_setting(url: str) -> None:
    """It will not pass by itself, so the process must not start."""
    for attempt in (migrate.upgrade_async, migrate.check):
        with pytest.raises(SettingsError, match="the database URL cannot be used") as caught:
            await attempt(url)
        assert "123x" not in str(caught.value)  # what stands where a port should is part of a password
        assert "cret" not in str(caught.value)


def test_the_newest_revision_is_told_by_the_file_names() -> None:
    """Tiers check the schema without loading Alembic; both must mean the same revision."""
    directory = ScriptDirectory.from_config(migrate.configuration())
    assert directory.get_current_head() == head()
    assert len(directory.get_heads()) == 1


def test_a_fresh_server_serves_the_migration(own_postgres: EmbeddedPostgres) -> None:
    """The embedded PostgreSQL is enough, with nothing prepared."""
    migrate.upgrade(own_postgres.url)
    asyncio.run(migrate.check(own_postgres.url))
