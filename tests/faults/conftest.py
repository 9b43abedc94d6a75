"""Servers for tests that kill and pause: their own, shared by all of them, and mended before each."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.faults.ground import Ground, mend
from tests.servers import RedisKind, binary_of, empty
from ticketwire.archive.migrate import upgrade
from ticketwire.embedded.postgres_server import EmbeddedPostgres
from ticketwire.embedded.redis_server import EmbeddedRedis

TEMPLATE = "migrated"


@pytest.fixture(scope="session")
def fault_redis(servers_folder: Path) -> Iterator[EmbeddedRedis]:
    """A Redis 8.2 with an append-only file."""
    with EmbeddedRedis(servers_folder / "faults-redis", binary=binary_of(RedisKind.V8_2)) as server:
        yield server


@pytest.fixture(scope="session")
def fault_postgres(servers_folder: Path) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL with a migrated database, to be copied."""
    with EmbeddedPostgres(servers_folder / "faults-postgres", options=("fsync=off", "shared_buffers=32MB")) as server:
        asyncio.run(_execute(server, f"CREATE DATABASE {TEMPLATE}"))
        upgrade(f"{server.url.rpartition('/')[0]}/{TEMPLATE}")
        yield server


async def _execute(server: EmbeddedPostgres, statement: str) -> None:
    connection = await asyncpg.connect(server.url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
async def ground(fault_redis: EmbeddedRedis, fault_postgres: EmbeddedPostgres, own_folder: Path) -> Ground:
    """Both servers up, Redis empty, a database of this test alone."""
    return await _make_ground(fault_redis, fault_postgres, own_folder)


async def _make_ground(redis: EmbeddedRedis, postgres: EmbeddedPostgres, folder: Path) -> Ground:
    await mend(redis)
    await mend(postgres)
    empty(redis.url)
    name = f"test_{folder.name.lower()}"
    await _execute(postgres, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    return Ground(redis, postgres, f"{postgres.url.rpartition('/')[0]}/{name}", folder)


@pytest.fixture(scope="module")
def module_ground(fault_redis: EmbeddedRedis, fault_postgres: EmbeddedPostgres, servers_folder: Path) -> Ground:
    """The same for a module, whose tests leave it as they found it."""
    folder = Path(tempfile.mkdtemp(dir=servers_folder))
    return asyncio.run(_make_ground(fault_redis, fault_postgres, folder))
