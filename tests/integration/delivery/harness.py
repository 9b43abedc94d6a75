"""A delivery node on a real Redis and PostgreSQL, and what stands in for a worker: the real scripts and archive."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from redis import Redis
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from delivery.app import Node, open_node
from delivery.settings import DeliverySettings
from schemas.entries import encode_confirmed
from schemas.events import Confirmed, event_tail
from tests.until import scaled, until
from ticketwire.archive.messages import Archive, open_archive
from ticketwire.archive.rows import ArchiveRow
from ticketwire.bus.bus import Bus, open_bus
from ticketwire.bus.partition import Partition, Settlement
from ticketwire.lifecycle import Lifecycle
from ticketwire.settings import SharedSettings
from ticketwire.telemetry.health import Health

FIRST_MS = 1_700_000_000_000


class Worker:
    """Archives and confirms messages as a worker does, through the same script under a real lease."""

    def __init__(self, bus: Bus, archive: Archive, shared: SharedSettings) -> None:
        self.bus = bus
        self.archive = archive
        self.shared = shared
        self._next = FIRST_MS

    def make(self, ticket: str, text: str = "hello", sender: str = "1") -> Confirmed:
        """The next message, confirmed nowhere yet."""
        self._next += 1
        return Confirmed(ticket, f"{self._next}-0", sender, text, self._next // 1000)

    async def archive_only(self, event: Confirmed) -> None:
        at = event.position
        row = ArchiveRow(
            event.ticket_id, at.ms, at.seq, self.bus.keys.partition_of(event.ticket_id), event.sender_id, event.message,
            "confirmed", event.timestamp,
        )  # fmt: skip
        await self.archive.store([row])

    async def archive_all(self, events: list[Confirmed]) -> None:
        """The same in one statement."""
        await self.archive.store(
            [
                ArchiveRow(
                    e.ticket_id, e.position.ms, e.position.seq, self.bus.keys.partition_of(e.ticket_id), e.sender_id,
                    e.message, "confirmed", e.timestamp,
                )
                for e in events
            ]
        )  # fmt: skip

    async def confirm(self, events: list[Confirmed], *, archived: bool = True) -> None:
        """Show *events* of one ticket: log and wake-up, by confirm.lua."""
        if archived:
            for event in events:
                await self.archive_only(event)
        partition = Partition(self.bus, self.bus.keys.partition_of(events[0].ticket_id), self.shared)
        lease = await partition.acquire("test")
        assert not isinstance(lease, int)
        await partition.confirm(
            lease,
            [Settlement(e.message_id, "log", e.ticket_id, event_tail(e), encode_confirmed(e)) for e in events],
        )
        await partition.release(lease)

    async def send(self, ticket: str, text: str = "hello", sender: str = "1") -> Confirmed:
        event = self.make(ticket, text, sender)
        await self.confirm([event])
        return event

    async def send_unheard(self, ticket: str, text: str = "hello") -> Confirmed:
        """Confirm a message whose wake-up gets lost."""
        event = self.make(ticket, text)
        await self.archive_only(event)
        log = self.bus.keys.log(ticket)
        await self.bus.command(log, "XADD", log, event.message_id, *encode_confirmed(event))
        return event


@dataclass
class Client:
    """A plain client that keeps what it gets."""

    socket: ClientConnection
    got: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        return [message["message_id"] for message in self.got]

    @property
    def texts(self) -> list[str]:
        return [message["message"] for message in self.got]

    async def read(self) -> None:
        async for text in self.socket:
            self.got.append(json.loads(text))

    async def until(self, count: int) -> None:
        """Wait for the *count*th message."""
        await until(lambda: len(self.got) >= count)


@dataclass
class Tier:
    """A node with its worker and clients."""

    node: Node
    worker: Worker
    health: Health
    lifecycle: Lifecycle
    stack: AsyncExitStack

    @property
    def redis(self) -> Redis:
        """A client for a test's own looks into Redis."""
        return Redis.from_url(self.worker.shared.redis_url.get_secret_value(), decode_responses=True)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.node.port}"

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.node.port}"

    async def client(self, query: str = "", **options: Any) -> Client:
        """Connect a client that reads all the time."""
        socket = await self.stack.enter_async_context(connect(f"{self.url}/{query}", **options))
        client = Client(socket)
        task = asyncio.create_task(_ignore_close(client.read()))
        self.stack.push_async_callback(end, task)
        return client


async def _ignore_close(reading: Awaitable[None]) -> None:
    try:
        await reading
    except ConnectionClosed:
        pass


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def running_tier(redis_url: str, postgres_url: str, **options: Any) -> AsyncIterator[Tier]:
    shared = SharedSettings.model_validate(
        {"redis_url": redis_url, "database_url": postgres_url, "auth": "off", **options.pop("shared", {})}
    )
    settings = DeliverySettings(
        shared=shared, host="127.0.0.1", port=0, **{"position_check_seconds": scaled(60), **options}
    )
    lifecycle, health = Lifecycle(scaled(5)), Health()
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(open_bus(shared))
        archive = await stack.enter_async_context(open_archive(postgres_url))
        node = await stack.enter_async_context(open_node(settings, lifecycle, health))
        clients = await stack.enter_async_context(AsyncExitStack())
        yield Tier(node, Worker(bus, archive, shared), health, lifecycle, clients)
