"""Which Redis server holds a key: one server, the master that Sentinel names, or a Cluster's slot owner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio.connection import AbstractConnection, parse_url
from redis.crc import key_slot
from redis.exceptions import RedisError, ResponseError

from ticketwire.bus.connection import Address, Node, close, make_connection
from ticketwire.errors import SettingsError, Unavailable

ASK_TIMEOUT_S = 1.0  # for a sentinel's or a cluster node's answer


@dataclass(frozen=True, slots=True)
class Target:
    """A Redis URL, understood."""

    kind: str  # "single", "sentinel" or "cluster"
    addresses: tuple[Address, ...]  # of the sentinels or of some cluster nodes; empty for "single"
    service: str  # the master's name under Sentinel
    connection: dict[str, Any]  # keyword arguments of a connection to a data node


def parse_target(url: str) -> Target:
    """Read a Redis URL.

    `redis://`, `rediss://` (TLS) and `unix://` as redis-py reads them, and with several hosts
    `redis+sentinel://user:password@s1:26379,s2:26379/service/0` and `redis+cluster://h1:6379,h2:6379`.
    Raises SettingsError.
    """
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    try:
        if not kind:
            return Target("single", (), "", dict(parse_url(url)))
        userinfo, at, hosts = parts.netloc.rpartition("@")
        default_port = 26379 if kind == "sentinel" else 6379
        addresses = tuple(_address(host, default_port) for host in hosts.split(","))
        path = [part for part in parts.path.split("/") if part]
        service, database = (path[0], path[1:2]) if kind == "sentinel" else ("", path[:1])
        plain = f"{scheme}://{userinfo}{at}{addresses[0][0]}:{addresses[0][1]}/{''.join(database)}"
        query = f"?{parts.query}" if parts.query else ""
        connection = dict(parse_url(plain + query))
    except (ValueError, IndexError) as exc:
        raise SettingsError(f"TICKETWIRE_REDIS_URL cannot be read: {type(exc).__name__}") from exc
    if kind == "cluster" and connection.pop("db", 0) != 0:
        raise SettingsError("TICKETWIRE_REDIS_URL names a database number, Redis Cluster has only 0")
    return Target(kind, addresses, service, connection)


def _address(text: str, default_port: int) -> Address:
    host, _, port = text.rpartition(":") if text.rpartition(":")[2].isdigit() else (text, "", default_port)
    if not host:
        raise ValueError("empty host")
    return host.strip("[]"), int(port)


class Topology(ABC):
    """Where the keys are now."""

    cluster = False

    def __init__(self, target: Target) -> None:
        self._target = target

    @abstractmethod
    async def node_for(self, key: str) -> Node:
        """Return the server that holds *key*. Raises Unavailable."""

    @abstractmethod
    async def all_nodes(self) -> list[Node]:
        """Return every server that takes writes."""

    @abstractmethod
    async def refresh(self) -> None:
        """Look again where the keys are; after MOVED, READONLY or a lost connection."""

    def node_at(self, address: Address) -> Node:
        """Return the server at *address*, as an ASK redirect names it."""
        raise Unavailable(f"Redis sent a redirect to {address} though it is not a Cluster")

    async def close(self) -> None:
        """Close all idle connections."""
        for node in await self.all_nodes():
            await node.drop_idle()

    async def _connect(self, address: Address | None = None) -> AbstractConnection:
        kwargs = dict(self._target.connection)
        if address is not None:
            kwargs["host"], kwargs["port"] = address
        return await _connected(kwargs)


class Single(Topology):
    """One server."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._node = Node(self._connect)

    async def node_for(self, key: str) -> Node:
        return self._node

    async def all_nodes(self) -> list[Node]:
        return [self._node]

    async def refresh(self) -> None:
        await self._node.drop_idle()


class Sentinel(Single):
    """The master that the sentinels name, asked anew for every connection."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._node = Node(self._connect_to_master)
        self._question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", target.service)
        # The user, password and database number are the master's; sentinels have none of them.
        own = ("username", "password", "db")
        self._sentinel = {name: value for name, value in target.connection.items() if name not in own}

    async def _connect_to_master(self) -> AbstractConnection:
        for address in self._target.addresses:
            with suppress(RedisError, OSError, TimeoutError, Unavailable):
                found = await _ask(address, self._question, self._sentinel)
                if found is None:
                    continue
                connection = await self._connect((str(found[0]), int(found[1])))
                # A sentinel that was cut off may still name the old master ("Sentinel clients", step 3).
                await connection.send_command("ROLE")
                if (await connection.read_response())[0] == "master":
                    return connection
                await close(connection)
        raise Unavailable(f"Redis: no sentinel names a reachable master for {self._target.service!r}")


class Cluster(Topology):
    """The owner of the key's hash slot, from CLUSTER SLOTS."""

    cluster = True

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._nodes: dict[Address, Node] = {}
        self._slots: list[Address | None] = [None] * 16_384

    async def node_for(self, key: str) -> Node:
        address = self._slots[key_slot(key.encode())]
        if address is None:
            await self.refresh()
            address = self._slots[key_slot(key.encode())]
        if address is None:
            raise Unavailable("Redis: no node of the Cluster serves this slot")
        return self.node_at(address)

    def node_at(self, address: Address) -> Node:
        if address not in self._nodes:
            self._nodes[address] = Node(lambda: self._connect(address))
        return self._nodes[address]

    async def all_nodes(self) -> list[Node]:
        if not any(self._slots):
            await self.refresh()
        return [self.node_at(address) for address in dict.fromkeys(a for a in self._slots if a)]

    async def refresh(self) -> None:
        known = [*self._nodes, *self._target.addresses]
        for address in dict.fromkeys(known):
            try:
                slots = await _ask(address, ("CLUSTER", "SLOTS"), self._target.connection)
            except (RedisError, Unavailable):
                continue
            if slots:
                await self._learn(slots, asked=address)
                return
        raise Unavailable("Redis: no node of the Cluster answers CLUSTER SLOTS")

    async def _learn(self, slots: Sequence[Sequence[Any]], asked: Address) -> None:
        table: list[Address | None] = [None] * 16_384
        for first, last, master, *_replicas in slots:
            # An empty host means "the address you asked" (Redis docs, CLUSTER SLOTS).
            address = (str(master[0]) or asked[0], int(master[1]))
            table[int(first) : int(last) + 1] = [address] * (int(last) - int(first) + 1)
        self._slots = table
        for address in [a for a in self._nodes if a not in table]:
            await self._nodes.pop(address).drop_idle()

    async def close(self) -> None:
        for node in self._nodes.values():
            await node.drop_idle()


async def _ask(address: Address, command: tuple[str, ...], connection: dict[str, Any]) -> Any:
    """Ask one server one thing over a connection of its own."""
    kwargs = {**connection, "host": address[0], "port": address[1]}
    node = Node(lambda: _connected(kwargs))
    try:
        (reply,) = await node.exchange([command], ASK_TIMEOUT_S)
    finally:
        await node.drop_idle()
    if isinstance(reply, ResponseError):
        raise reply
    return reply


async def _connected(kwargs: dict[str, Any]) -> AbstractConnection:
    connection = make_connection(kwargs)
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
    except BaseException:
        await close(connection)
        raise
    return connection


def make_topology(url: str) -> Topology:
    """Choose by the URL's scheme."""
    target = parse_target(url)
    return {"single": Single, "sentinel": Sentinel, "cluster": Cluster}[target.kind](target)
