"""Fixtures: real servers, started once, emptied for each test.

`redis_url`      an empty Redis 8.2 (or TEST_REDIS_URL, which is emptied)
`bus_url`        the same, once for every kind of Redis (`RedisKind`)
`redis_cluster`, `redis_sentinel`  those deployments with their processes
`postgres_url`   a new database with all migrations applied; `bare_postgres_url` without
`own_redis`, `own_postgres`  servers of one test alone, which it may pause, kill and start again
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.servers import Databases, RedisKind, RedisServers, binary_of, empty, running
from ticketwire.embedded.postgres_server import EmbeddedPostgres
from ticketwire.embedded.redis_server import EmbeddedRedis

# Safe here: it matters when the machine dies, not when PostgreSQL does.
FAST_POSTGRES = ("fsync=off", "shared_buffers=32MB", "max_connections=200")


@pytest.fixture(scope="session")
def servers_folder() -> Iterator[Path]:
    """Where servers keep their data. Not pytest's own folder: PostgreSQL's account cannot reach that as root."""
    with tempfile.TemporaryDirectory(prefix="ticketwire-test-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def start_redis(servers_folder: Path) -> Iterator[Callable[[RedisKind], RedisServers]]:
    """Start a kind of Redis at its first use; all of them end with the session."""
    started: dict[RedisKind, RedisServers] = {}
    with ExitStack() as stack:

        def start(kind: RedisKind) -> RedisServers:
            if kind not in started:
                started[kind] = stack.enter_context(running(kind, servers_folder / f"redis-{kind}"))
            return started[kind]

        yield start


@pytest.fixture(scope="session")
def redis_server(start_redis: Callable[[RedisKind], RedisServers]) -> EmbeddedRedis:
    """The session's Redis 8.2. Not to be killed: see `own_redis`."""
    return start_redis(RedisKind.V8_2).nodes[0]


@pytest.fixture
def redis_url(request: pytest.FixtureRequest) -> str:
    """An empty Redis."""
    url = os.environ.get("TEST_REDIS_URL")
    if url is None:
        server: EmbeddedRedis = request.getfixturevalue("redis_server")
        url = server.url
    empty(url)
    return url


@pytest.fixture(params=list(RedisKind), ids=str)
def bus(request: pytest.FixtureRequest, start_redis: Callable[[RedisKind], RedisServers]) -> RedisServers:
    """Each kind of Redis in turn, empty. `bus.kind` tells which."""
    servers = start_redis(request.param)
    servers.empty()
    return servers


@pytest.fixture
def bus_url(bus: RedisServers) -> str:
    """The URL of each kind of Redis in turn, empty."""
    return bus.url


@pytest.fixture
def redis_cluster(start_redis: Callable[[RedisKind], RedisServers]) -> RedisServers:
    """Three masters, empty."""
    servers = start_redis(RedisKind.CLUSTER)
    servers.empty()
    return servers


@pytest.fixture
def redis_sentinel(start_redis: Callable[[RedisKind], RedisServers]) -> RedisServers:
    """One master, one replica, one sentinel; empty. The session's own: a failover needs `running` instead."""
    servers = start_redis(RedisKind.SENTINEL)
    servers.empty()
    return servers


@pytest.fixture(scope="session")
def postgres_server(servers_folder: Path) -> Iterator[EmbeddedPostgres]:
    """The session's PostgreSQL. Not to be killed: see `own_postgres`."""
    with EmbeddedPostgres(servers_folder / "postgres", options=FAST_POSTGRES) as server:
        yield server


@pytest.fixture(scope="session")
def databases(postgres_server: EmbeddedPostgres) -> Iterator[Databases]:
    with Databases(postgres_server) as databases:
        yield databases


@pytest.fixture(scope="session")
def migrated_database(databases: Databases) -> str:
    """The name of a database with all migrations applied, to be copied."""
    from ticketwire.archive.migrate import upgrade

    name = databases.create()
    upgrade(databases.url(name))
    return name


@pytest.fixture
def postgres_url(databases: Databases, migrated_database: str) -> Iterator[str]:
    """A database of this test alone, with all migrations applied."""
    name = databases.create(migrated_database)
    yield databases.url(name)
    databases.drop(name)


@pytest.fixture
def bare_postgres_url(databases: Databases) -> Iterator[str]:
    """A database of this test alone, with nothing in it."""
    name = databases.create()
    yield databases.url(name)
    databases.drop(name)


@pytest.fixture
def own_folder(servers_folder: Path) -> Iterator[Path]:
    """A folder of this test alone, which PostgreSQL can reach as well."""
    with tempfile.TemporaryDirectory(dir=servers_folder, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def own_redis(own_folder: Path) -> Iterator[EmbeddedRedis]:
    """A Redis 8.2 of this test alone: `.process.kill()`, then `.launch()` and `.wait_ready()` on the same port."""
    with EmbeddedRedis(own_folder / "redis", binary=binary_of(RedisKind.V8_2)) as server:
        yield server


@pytest.fixture
def own_postgres(own_folder: Path) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of this test alone, without migrations."""
    with EmbeddedPostgres(own_folder / "postgres", options=FAST_POSTGRES) as server:
        yield server
