"""The way to Redis for everyone in this package: route, exchange, redirect, run a script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AskError, MovedError, NoScriptError, ResponseError

from schemas import keys as names
from schemas.keys import Keys
from ticketwire.bus.connection import Argument, Command, translate
from ticketwire.bus.scripts import script as script_for
from ticketwire.bus.topology import Topology, make_topology
from ticketwire.errors import SettingsError, Unavailable
from ticketwire.settings import SharedSettings

MOST_AT_ONCE = 64  # exchanges under way at a time; more wait their turn, so connections stay bounded
MOST_REDIRECTS = 4
OLDEST = (6, 2)


@dataclass(frozen=True, slots=True)
class Features:
    """What this server can do beyond Redis 6.2, detected once."""

    version: tuple[int, int]
    waitaof: bool = False
    sharded_pubsub: bool = False

    @classmethod
    def detect(cls, info: str, cluster: bool) -> Features:
        """Read the reply of `INFO server`. Valkey states the Redis version it is compatible with."""
        fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        text = fields.get("redis_version", "0.0")
        major, minor = (int(part) for part in text.split(".")[:2])
        version = (major, minor)
        if version < OLDEST:
            raise SettingsError(f"TICKETWIRE_REDIS_URL leads to Redis {text}, 6.2 or later is needed")
        return cls(version, waitaof=version >= (7, 2), sharded_pubsub=cluster and version >= (7, 0))


class Bus:
    """One Redis deployment. Safe to use from many tasks."""

    def __init__(self, topology: Topology, keys: Keys, timeout_s: float) -> None:
        self.topology = topology
        self.keys = keys
        self.features = Features(OLDEST)  # until `check`
        self._timeout = timeout_s
        self._turn = asyncio.Semaphore(MOST_AT_ONCE)

    async def call(self, key: str, *commands: Command, timeout: float | None = None) -> list[Any]:
        """Send *commands* in one write on one connection to the server that holds *key*.

        Returns the replies in order; an error reply stands there as the exception it would be.
        Raises Unavailable when the connection failed: the commands may or may not have been carried out.
        """
        async with self._turn:
            return await self._routed(key, commands, timeout or self._timeout)

    async def command(self, key: str, *command: Argument) -> Any:
        """Send one command; raise its error reply, translated."""
        (reply,) = await self.call(key, command)
        return checked(reply)

    async def block(self, key: str, *command: Argument, timeout: float) -> Any:
        """Send one command that waits on the server; it takes no turn from the others."""
        (reply,) = await self._routed(key, (command,), timeout)
        return checked(reply)

    async def script(
        self,
        name: str,
        keys: Sequence[str],
        args: Sequence[Argument],
        *then: Command,
        timeout: float | None = None,
    ) -> list[Any]:
        """Run a script, and *then* further commands on the same connection (WAIT belongs to its writer).

        Returns the script's reply followed by those of *then*. Raises Fenced, GroupLost or Unavailable.
        """
        script = script_for(name, self.features.version)
        tail = (len(keys), *keys, *args)
        replies = await self.call(keys[0], ("EVALSHA", script.sha, *tail), *then, timeout=timeout)
        if isinstance(replies[0], NoScriptError):  # a new or restarted server: nothing was carried out
            replies = await self.call(keys[0], ("EVAL", script.text, *tail), *then, timeout=timeout)
        return [checked(reply) for reply in replies]

    async def open(self, key: str) -> AbstractConnection:
        """Return a connection of the caller's own to the server that holds *key*, for Pub/Sub."""
        return await (await self.topology.node_for(key)).open()

    async def _routed(self, key: str, commands: Sequence[Command], timeout: float) -> list[Any]:
        for _ in range(MOST_REDIRECTS):
            node = await self.topology.node_for(key)
            try:
                replies = await node.exchange(commands, timeout)
            except Unavailable:
                await self._look_again()
                raise
            first = replies[0]
            if isinstance(first, AskError):  # is a MovedError too in redis-py, so it is asked for first
                target = self.topology.node_at((first.host, first.port))
                return (await target.exchange([("ASKING",), *commands], timeout))[1:]
            if not isinstance(first, MovedError):
                return replies
            await self.topology.refresh()  # refused, so not carried out: safe to send again
        raise Unavailable(f"Redis: still redirected after {MOST_REDIRECTS} tries")

    async def _look_again(self) -> None:
        if self.topology.cluster:
            try:
                await self.topology.refresh()
            except Unavailable:
                pass  # the first failure is the one to report

    async def run_ids(self) -> frozenset[str]:
        """Return what names the server processes now: it changes when one restarts or a replica is promoted."""
        nodes = await self.topology.all_nodes()
        replies = [await node.exchange([("INFO", "server")], self._timeout) for node in nodes]
        lines = [line for (reply,) in replies for line in str(checked(reply)).splitlines()]
        return frozenset(line for line in lines if line.startswith("run_id:"))

    async def check(self) -> None:
        """Detect features and agree on the number of partitions. Raises Unavailable or SettingsError."""
        info = await self.command(names.META, "INFO", "server")
        self.features = Features.detect(info, self.topology.cluster)
        await self.command(names.META, "HSETNX", names.META, "partitions", self.keys.partitions)
        stored = int(await self.command(names.META, "HGET", names.META, "partitions"))
        if stored != self.keys.partitions:
            raise SettingsError(
                f"TICKETWIRE_PARTITIONS is {self.keys.partitions}, but this Redis was started with {stored}: "
                "the number is fixed at first start"
            )


def checked(reply: Any) -> Any:
    """Return *reply*, or raise it, translated, if it is an error."""
    if isinstance(reply, ResponseError):
        raise translate(reply) from reply
    return reply


@asynccontextmanager
async def open_bus(settings: SharedSettings) -> AsyncIterator[Bus]:
    """Make the Bus of *settings*. Connects at first use; call `check` before work begins."""
    topology = make_topology(settings.redis_url.get_secret_value())
    bus = Bus(topology, Keys(settings.partitions, topology.cluster), settings.redis_timeout_ms / 1000)
    try:
        yield bus
    finally:
        await topology.close()
