"""The least HTTP client that sends messages: httpx costs as much CPU per request as the whole of ingest."""

from __future__ import annotations

import asyncio
import json
import re
from typing import NamedTuple

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Answer(NamedTuple):
    status: int
    body: str


class Sender:
    """Posts to ingest nodes over one kept-alive connection each. One request at a time."""

    def __init__(self) -> None:
        self._connections: dict[str, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}

    async def send(self, node: str, ticket: str, text: str, key: str, timeout_s: float) -> Answer:
        """Send one message to *node* (`host:port`). Raises OSError when nobody knows what became of it."""
        body = json.dumps({"ticket_id": ticket, "sender_id": "1", "message": text}).encode()
        try:
            async with asyncio.timeout(timeout_s):
                reader, writer = await self._connection(node)
                writer.write(
                    f"POST /chat/send HTTP/1.1\r\nHost: {node}\r\nContent-Type: application/json\r\n"
                    f"Idempotency-Key: {key}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                    + body
                )
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                assert length is not None, head
                answer = Answer(int(head.split(b" ", 2)[1]), (await reader.readexactly(int(length[1]))).decode())
        except (EOFError, OSError, TimeoutError) as exc:
            self._drop(node)
            raise OSError(str(exc)) from exc
        except BaseException:
            self._drop(node)
            raise
        if b"\r\nconnection: close" in head.lower():
            self._drop(node)
        return answer

    async def _connection(self, node: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if node not in self._connections:
            host, _, port = node.rpartition(":")
            self._connections[node] = await asyncio.open_connection(host, int(port))
        return self._connections[node]

    def _drop(self, node: str) -> None:
        if node in self._connections:
            _, writer = self._connections.pop(node)
            writer.transport.abort()

    def close(self) -> None:
        for node in list(self._connections):
            self._drop(node)
