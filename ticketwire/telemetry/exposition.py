"""The internal port of every tier: `/livez`, `/readyz`, `/metrics`. Never a public one.

A few dozen lines on asyncio's streams rather than a second web server: it has no routes to grow, answers one
request a connection, and bounds time, size and number of connections, which uvicorn does not.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Histogram, generate_latest

from ticketwire.errors import SettingsError
from ticketwire.telemetry.health import Health

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 8_192
MAX_CONNECTIONS = 64
TIMEOUT_SECONDS = 5.0  # from the connection to the last byte of the answer
_LAG_EVERY_SECONDS = 0.25

LOOP_LAG = Histogram(
    "loop_lag_seconds",
    "How late the event loop ran a timer: time during which it could serve nobody",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)

Answer = tuple[HTTPStatus, str, bytes]  # status, content type, body


@asynccontextmanager
async def serve_internal(
    host: str,
    port: int,
    health: Health,
    registry: CollectorRegistry = REGISTRY,
    *,
    timeout_s: float = TIMEOUT_SECONDS,
) -> AsyncIterator[int]:
    """Serve the three paths inside the running loop; yields the actual port (*port* 0 means a free one).

    Raises SettingsError when the address cannot be had. `process_*` metrics come with prometheus_client's own registry.
    """
    handlers: set[asyncio.Task[None]] = set()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            if len(handlers) <= MAX_CONNECTIONS:
                async with asyncio.timeout(timeout_s):
                    await _converse(reader, writer, lambda path: _answer(path, health, registry))
        except (TimeoutError, OSError, asyncio.CancelledError):
            # The client is slow or gone, or we are stopping; an abort loses nobody's data here.
            writer.transport.abort()
        finally:
            handlers.discard(task)
            writer.close()

    try:
        server = await asyncio.start_server(accepted, host, port, limit=MAX_HEAD_BYTES)
    except OSError as exc:
        raise SettingsError(f"the internal port {host}:{port} cannot be had: {exc.strerror}") from exc
    lag = asyncio.create_task(_watch_lag(), name="loop lag")
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        lag.cancel()
        server.close()
        for task in list(handlers):
            task.cancel()
        await asyncio.gather(lag, *handlers, return_exceptions=True)
        await server.wait_closed()


async def _converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Callable[[str], Answer]
) -> None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return
    except asyncio.LimitOverrunError:
        status, kind, body, method = *_text(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE), "GET"
    else:
        method, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        path, _, version = rest.partition(" ")
        if not version.startswith("HTTP/1."):
            status, kind, body = _text(HTTPStatus.BAD_REQUEST)
        elif method not in ("GET", "HEAD"):
            status, kind, body = _text(HTTPStatus.METHOD_NOT_ALLOWED)
        else:
            status, kind, body = answer(path.partition("?")[0])
    allow = "Allow: GET, HEAD\r\n" if status is HTTPStatus.METHOD_NOT_ALLOWED else ""
    writer.write(
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        f"{allow}Cache-Control: no-store\r\nConnection: close\r\n\r\n".encode()
    )
    if method != "HEAD":
        writer.write(body)
    await writer.drain()
    writer.close()
    await writer.wait_closed()


def _answer(path: str, health: Health, registry: CollectorRegistry) -> Answer:
    if path == "/livez":
        return _text(HTTPStatus.OK)  # the loop turns, or nobody would say so; it asks nobody
    if path == "/readyz":
        report = health.report()
        status = HTTPStatus.OK if report["ready"] else HTTPStatus.SERVICE_UNAVAILABLE
        return status, "application/json", json.dumps(report).encode()
    if path == "/metrics":
        return HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(registry)
    return HTTPStatus.NOT_FOUND, "text/plain", b"there are /livez, /readyz and /metrics\n"


def _text(status: HTTPStatus) -> Answer:
    return status, "text/plain", f"{status.phrase}\n".encode()


async def _watch_lag() -> None:
    while True:
        due = time.perf_counter() + _LAG_EVERY_SECONDS
        await asyncio.sleep(_LAG_EVERY_SECONDS)
        LOOP_LAG.observe(max(0.0, time.perf_counter() - due))
