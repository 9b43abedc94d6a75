"""Put a delivery node together and run it until it is told to stop."""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from delivery import memory, metrics
from delivery.access import Access
from delivery.backlog import Backlog
from delivery.canary import Canary
from delivery.client import V1_RESTART
from delivery.clients import Clients, open_clients
from delivery.protocol import SocketProtocol, Sockets
from delivery.replay import Replay, backoff
from delivery.routes import Routes, web_folder
from delivery.settings import DeliverySettings
from delivery.subscriptions import Rooms, open_rooms
from delivery.upgrade import UpgradingHttp
from ticketwire.archive.messages import Archive, open_archive
from ticketwire.bus.bus import Bus, open_bus
from ticketwire.bus.subscriber import Subscriber, open_subscriber
from ticketwire.errors import Unavailable
from ticketwire.lifecycle import Lifecycle, open_files_allowed, settle_gc
from ticketwire.serving import bind, http_server, port_of, uvicorn_config
from ticketwire.telemetry.exposition import serve_internal
from ticketwire.telemetry.health import Health

log = logging.getLogger(__name__)

ARCHIVE_CHECK_SECONDS = 2.0
MEMORY_CHECK_SECONDS = 1.0
CLOSES_PER_SECOND = 500  # so that the nodes that take our clients over are not stormed
SHORTEST_WINDOW_S = 1.0  # that clients get to choose a moment from
SHARE_FOR_CLOSES = 0.6  # of what is left until the deadline


def create_app(routes: Routes, settings: DeliverySettings) -> Starlette:
    """Build the public application."""
    table: list[BaseRoute] = [
        WebSocketRoute("/", routes.socket),
        WebSocketRoute("/ws/{ticket}", routes.socket),
        Route("/tickets/{ticket}/messages", routes.history, methods=["GET"]),
        Route("/sse/{ticket}", routes.stream, methods=["GET"]),
        Route("/config.json", routes.config, methods=["GET"]),
        WebSocketRoute("/{rest:path}", _no_such_socket),
    ]
    if settings.chat_page:
        table += [
            Route("/", routes.page, methods=["GET"]),
            Mount("/web", StaticFiles(directory=web_folder())),
        ]
    middleware = []
    if settings.origins:
        middleware.append(Middleware(CORSMiddleware, allow_origins=settings.origins, allow_methods=["GET"]))
    return Starlette(routes=table, middleware=middleware, exception_handlers={HTTPException: _http_error})


async def _no_such_socket(websocket: WebSocket) -> None:
    sentence = f"there is no socket at {websocket.url.path[:60]!r}, only at /?ticket_id=12345 and /ws/12345"
    await websocket.send_denial_response(JSONResponse({"error": sentence}, HTTPStatus.NOT_FOUND))


async def _http_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    sentence = HTTPStatus(exc.status_code).phrase
    if exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        sentence = f"{request.method} is not possible here, allowed: GET"
    elif exc.status_code == HTTPStatus.NOT_FOUND:
        sentence = f"there is nothing at {request.url.path[:60]!r}"
    return JSONResponse({"error": sentence}, exc.status_code, exc.headers)


def server_options(sockets: Sockets) -> dict[str, Any]:
    """What uvicorn must be told to hand upgrades to us."""
    # `ws` only tells uvicorn that upgrades are welcome: UpgradingHttp makes the socket itself, as it has the
    # request parsed already.
    return {"http": functools.partial(UpgradingHttp, sockets), "ws": SocketProtocol, "timeout_keep_alive": 15}


@dataclass(slots=True)
class Node:
    """A running delivery node."""

    name: str
    port: int
    sockets: Sockets
    clients: Clients
    rooms: Rooms
    subscriber: Subscriber
    bus: Bus


@asynccontextmanager
async def open_node(settings: DeliverySettings, lifecycle: Lifecycle, health: Health) -> AsyncIterator[Node]:
    """Run a node for as long as the block.

    It listens before Redis and PostgreSQL are there, refusing with 503, and *health* says what is missing.
    """
    bound = bind(settings.host, settings.port, "DELIVERY_PORT")
    health.expect("redis", "archive")
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(open_bus(settings.shared))
        archive = await stack.enter_async_context(
            open_archive(
                settings.shared.database_url.get_secret_value(),
                size=settings.archive_connections,
                timeout_s=settings.archive_timeout_ms / 1000,
            )
        )
        subscriber = await stack.enter_async_context(open_subscriber(bus))
        backlog = Backlog(bus, archive, settings.replay_page_entries)
        rooms = await stack.enter_async_context(open_rooms(bus, subscriber, backlog, settings))
        replay = Replay(backlog, settings.replay_pages)
        name = f"{settings.name or socket.gethostname()}-{secrets.token_hex(4)}"
        access = Access(settings.shared.auth)
        clients = await stack.enter_async_context(
            open_clients(settings, bus, archive, backlog, rooms, replay, access, name)
        )
        sockets = Sockets(settings)
        if sockets.most < settings.max_sockets:
            extra = {"sockets": sockets.most, "set": settings.max_sockets, "open_files_allowed": open_files_allowed()}
            level = logging.WARNING if "max_sockets" in settings.model_fields_set else logging.INFO
            log.log(level, "fewer sockets than set", extra=extra)
        routes = Routes(settings, bus, rooms, replay, backlog, archive, clients, access, sockets)
        canary = Canary(bus, subscriber, settings, name, health)
        group = await stack.enter_async_context(asyncio.TaskGroup())
        tasks = [
            group.create_task(sockets.beat(), name="heartbeat"),
            group.create_task(sockets.streams.beat(), name="stream heartbeat"),
            group.create_task(_watch_redis(bus, routes, canary, health), name="redis"),
            group.create_task(_watch_archive(archive, health), name="archive"),
            group.create_task(_watch_memory(sockets, health), name="memory"),
        ]
        config = uvicorn_config(create_app(routes, settings), **server_options(sockets))
        try:
            async with http_server(config, bound, lifecycle):
                log.info("listening", extra={"port": port_of(bound), "node": name})
                yield Node(name, port_of(bound), sockets, clients, rooms, subscriber, bus)
        finally:
            for task in tasks:
                task.cancel()


async def serve(settings: DeliverySettings, lifecycle: Lifecycle) -> None:
    """Run a node until *lifecycle* stops it; then close its sockets, paced, and finish its requests."""
    health = Health()
    async with (
        serve_internal(settings.internal_host, settings.internal_port, health),
        open_node(settings, lifecycle, health) as node,
    ):
        settle_gc()
        await lifecycle.stopping.wait()
        health.draining = True
        await drain(node, lifecycle.remaining() * SHARE_FOR_CLOSES)


async def drain(node: Node, seconds: float) -> None:
    """Send all clients elsewhere within *seconds*, so spread that the nodes that take them over are not stormed.

    v1 clients are asked first and choose their own moment; plain sockets, and whoever stays, are closed, paced.
    """
    node.sockets.draining = True
    node.rooms.hold_nothing()
    node.sockets.streams.close()
    sessions = len(node.clients)
    plain = len(node.sockets.wheel) - sessions
    window = min(seconds / 2, max(SHORTEST_WINDOW_S, sessions / CLOSES_PER_SECOND)) if sessions else 0.0
    if sessions:
        log.info("asking clients to reconnect", extra={"clients": sessions, "seconds": round(window, 1)})
        node.clients.announce(round(window * 1000))
    start = asyncio.get_running_loop().time()
    await node.sockets.drain(min(seconds / 2, plain / CLOSES_PER_SECOND), V1_RESTART)
    await node.clients.gone(window - (asyncio.get_running_loop().time() - start))
    left = len(node.sockets.wheel)
    rest = max(0.0, seconds - (asyncio.get_running_loop().time() - start))
    await node.sockets.drain(min(rest, left / CLOSES_PER_SECOND))


async def _watch_redis(bus: Bus, routes: Routes, canary: Canary, health: Health) -> None:
    """Open the door once Redis has answered; from then on the canary reports."""
    attempt = 0
    while True:
        try:
            await bus.check()
            break
        except Unavailable as exc:
            health.set("redis", False, exc.detail)
            await asyncio.sleep(backoff(random.Random(), attempt))
            attempt += 1
    routes.refusal = ""
    await canary.run()


async def _watch_archive(archive: Archive, health: Health) -> None:
    """Report on PostgreSQL. Live delivery goes on without it, but history and long catch-ups do not."""
    checked = False
    while True:
        try:
            if checked:
                await archive.ping()
            else:
                await archive.check_schema()
                checked = True
            health.set("archive", True)
        except Unavailable as exc:
            health.set("archive", False, exc.detail)
        await asyncio.sleep(ARCHIVE_CHECK_SECONDS)


async def _watch_memory(sockets: Sockets, health: Health) -> None:
    """Take nobody new while this process uses more memory than it should; those who are here go on."""
    door = memory.Door(memory.mark_bytes(sockets.settings.memory_limit, memory.container_limit()))
    metrics.MEMORY_MARK.set(door.mark)
    while True:
        used = memory.resident_bytes()
        if door.mark and used > door.mark * memory.REOPEN:
            memory.give_back()
            used = memory.resident_bytes()
        metrics.MEMORY.set(used)
        sentence = (
            f"this node uses {used >> 20} MiB of memory, {door.mark >> 20} MiB allowed" if door.note(used) else ""
        )
        sockets.out_of_memory = sentence
        health.set("memory", not sentence, sentence)
        await asyncio.sleep(MEMORY_CHECK_SECONDS)
