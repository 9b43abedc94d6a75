"""An ingest node inside the test's own event loop, on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from redis.asyncio import Redis

from ingest.app import create_app
from ingest.settings import IngestSettings
from schemas.keys import Keys
from tests.until import scaled
from ticketwire.lifecycle import Lifecycle
from ticketwire.serving import bind, http_server, port_of, uvicorn_config
from ticketwire.settings import SharedSettings
from ticketwire.telemetry.health import Health

NOWHERE = "postgresql://127.0.0.1:1/none"  # nobody listens there
KEYS = Keys(16)


@dataclass(slots=True)
class Node:
    """A running node."""

    client: httpx.AsyncClient
    health: Health
    port: int
    redis: Redis  # of the test, decoding

    async def send(self, text: str = "Hello", ticket: str = "12345", **more: Any) -> httpx.Response:
        """Post a form."""
        headers = more.pop("headers", {})
        fields = {"ticket_id": ticket, "sender_id": "1", "message": text, **more}
        return await self.client.post("/chat/send", data=fields, headers=headers)

    async def entries(self, ticket: str | None = None) -> list[tuple[str, dict[str, str]]]:
        """What lies on the ingest streams, in the order of each: of one ticket's partition, or of all."""
        partitions = range(KEYS.partitions) if ticket is None else [KEYS.partition_of(ticket)]
        found: list[tuple[str, dict[str, str]]] = []
        for partition in partitions:
            found += await self.redis.xrange(KEYS.ingest(partition))
        return found

    async def texts(self, ticket: str | None = None) -> list[str]:
        return [fields["message"] for _, fields in await self.entries(ticket)]

    async def raw(self, *pieces: bytes, close: bool = False) -> bytes:
        """Write bytes as they are; return what comes back until the server closes or is silent after an answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            if close:
                writer.write_eof()
            async with asyncio.timeout(scaled(10)):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
                return head + await reader.readexactly(length)
        finally:
            writer.close()
            await writer.wait_closed()


def settings_of(redis_url: str, **options: Any) -> IngestSettings:
    """Make settings; *options* may be the tier's own or shared ones."""
    shared = {name: options.pop(name) for name in list(options) if name in SharedSettings.model_fields}
    shared = {"database_url": NOWHERE, "auth": "off", "redis_url": redis_url, **shared}
    given = {"measure_ms": 20, "deadline_ms": round(scaled(5_000)), **options}
    return IngestSettings(shared=SharedSettings(**shared), **given)


@asynccontextmanager
async def running_node(redis_url: str, **options: Any) -> AsyncIterator[Node]:
    health = Health("redis")
    bound = bind("127.0.0.1", 0, "INGEST_PORT")
    port = port_of(bound)
    config = uvicorn_config(create_app(settings_of(redis_url, **options), health))
    data_url = options.get("data_url", redis_url)
    async with (
        http_server(config, bound, Lifecycle(scaled(5.0))),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=scaled(60)) as client,
        Redis.from_url(data_url, decode_responses=True) as redis,
    ):
        yield Node(client, health, port, redis)
