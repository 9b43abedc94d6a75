"""Where a run takes place: servers, proxies between them and the tiers, the tiers, and their load."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from redis.asyncio import Redis

from tests.faults.ground import Ground, bring_up, kill
from tests.faults.load import Load
from tests.faults.proxy import Proxy, running_proxy
from tests.faults.stack import Kind, Stack
from tests.until import until
from ticketwire.embedded.redis_server import EmbeddedRedis

KINDS: tuple[Kind, ...] = ("ingest", "worker", "delivery")


class Pair:
    """A Redis master and its replica, each replicating through a proxy of its own, and the addresses for the master."""

    def __init__(self, servers: list[EmbeddedRedis], links: list[Proxy], addresses: list[Proxy]) -> None:
        self._servers, self._links, self._addresses = servers, links, addresses
        self._master = 0  # which of the two

    @property
    def master(self) -> EmbeddedRedis:
        return self._servers[self._master]

    @property
    def replica(self) -> EmbeddedRedis:
        return self._servers[1 - self._master]

    async def replicate(self) -> None:
        """Let the replica follow the master; return when it has caught up."""
        async with Redis.from_url(self.replica.url, decode_responses=True) as redis:
            await redis.replicaof("127.0.0.1", self._links[self._master].port)

            async def follows() -> bool:
                return (await redis.info("replication")).get("master_link_status") == "up"

            await until(follows, timeout_s=20)

    def freeze_replica(self) -> None:
        """Cut replication: from now on the replica falls behind."""
        link = self._links[self._master]
        link.refuse = True
        link.cut()

    async def fail_over(self) -> None:
        """Kill the master and promote the replica as it is; then let the old master follow, which forgets its tail."""
        lost = self.master
        kill(lost)
        async with Redis.from_url(self.replica.url) as redis:
            await redis.replicaof("NO", "ONE")
        self._links[self._master].refuse = False
        self._master = 1 - self._master
        for address in self._addresses:
            address.target = ("127.0.0.1", self.master.port)
            address.cut()
        await bring_up(lost)
        await self.replicate()


@dataclass(slots=True)
class Scene:
    """Everything a fault may touch."""

    ground: Ground
    stack: Stack
    proxies: Mapping[Kind, Proxy]  # between each kind of tier and Redis
    harness_url: str  # of Redis, for the harness itself; no fault touches that way
    pair: Pair | None = None
    notes: list[str] = field(default_factory=list)  # what went wrong besides messages
    timeline: list[tuple[float, str]] = field(default_factory=list)  # Unix seconds, which fault began or ended

    def load(self, **options: object) -> Load:
        return Load(self.stack.ingests, self.stack.deliveries, self.harness_url, self.ground.database_url, **options)  # type: ignore[arg-type]


@asynccontextmanager
async def running_scene(
    ground: Ground, *, replica: EmbeddedRedis | None = None, **options: object
) -> AsyncIterator[Scene]:
    """A scene whose tiers are at work and started again when they die; *options* as for `Stack`."""
    async with AsyncExitStack() as stack:
        port = ground.redis.port
        proxies = {kind: await stack.enter_async_context(running_proxy("127.0.0.1", port)) for kind in KINDS}
        own = await stack.enter_async_context(running_proxy("127.0.0.1", port))
        pair = None
        if replica is not None:
            servers = [ground.redis, replica]
            links = [await stack.enter_async_context(running_proxy("127.0.0.1", one.port)) for one in servers]
            pair = Pair(servers, links, [*proxies.values(), own])
            await pair.replicate()
        urls = {kind: f"redis://127.0.0.1:{proxy.port}/0" for kind, proxy in proxies.items()}
        tiers = Stack(ground.folder, urls, ground.database_url, **options)  # type: ignore[arg-type]
        stack.callback(tiers.end)
        await tiers.whole()
        supervisor = asyncio.create_task(tiers.supervise())
        stack.callback(supervisor.cancel)
        yield Scene(ground, tiers, proxies, f"redis://127.0.0.1:{own.port}/0", pair)
        if supervisor.done():
            supervisor.result()
