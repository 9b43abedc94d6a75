"""uvicorn inside our own event loop and lifecycle: our sockets, our signals, an end by our deadline."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from uvicorn.lifespan.on import LifespanOn

from ticketwire.errors import SettingsError
from ticketwire.lifecycle import Lifecycle
from ticketwire.limited_http import LimitedHttp

_BACKLOG = 2_048
_MARGIN_SECONDS = 0.5  # of the deadline, left for closing what the application had open


def bind(host: str, port: int, setting: str) -> socket.socket:
    """Return a bound TCP socket, not yet listening; port 0 means a free one: see `port_of`.

    Raises SettingsError naming *setting*, the variable that holds the port.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as exc:
        raise SettingsError(f"{setting}: the address {host!r} is unknown: {exc.strerror}") from exc
    bound = socket.socket(family, kind, proto)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as exc:
        bound.close()
        raise SettingsError(f"{setting} is {port}, which cannot be had on {host}: {exc.strerror}") from exc
    bound.setblocking(False)
    return bound


def port_of(bound: socket.socket) -> int:
    """The actual port."""
    return int(bound.getsockname()[1])


def uvicorn_config(app: Any, **options: Any) -> uvicorn.Config:
    """uvicorn's options as all our servers want them; *options* win.

    Heads of requests are bounded in size and time. No access log (metrics count), no `server` header, no trust in
    `X-Forwarded-For` that nobody asked for, and no permessage-deflate: it costs megabytes a socket.
    """
    defaults: dict[str, Any] = {
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "http": LimitedHttp,
        "ws": "websockets-sansio",
        "ws_per_message_deflate": False,
        "lifespan": "on",
        "backlog": _BACKLOG,
    }
    return uvicorn.Config(app, **{**defaults, **options})


@asynccontextmanager
async def http_server(
    config: uvicorn.Config, bound: socket.socket, lifecycle: Lifecycle
) -> AsyncIterator[uvicorn.Server]:
    """Serve *config* on *bound* for as long as the block runs; inside, requests are answered already.

    On leaving: no new connections; open requests may finish and sockets are closed with 1012, until the lifecycle's
    deadline. An error of the application's lifespan, at any time, cancels the block and is raised (in a group).
    """
    server = _Server(config)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(server.serve(sockets=[bound]), name="uvicorn")
        await server.tried.wait()
        if not server.started:
            await asyncio.get_running_loop().create_future()  # for ever: the group cancels it with the task's error
        orderly = False
        try:
            yield server
            orderly = True
        finally:
            seconds = lifecycle.remaining() - _MARGIN_SECONDS if orderly or lifecycle.stopping.is_set() else 0
            # uvicorn's annotation says whole seconds, but it hands any number to asyncio.
            config.timeout_graceful_shutdown = max(0.1, seconds)  # type: ignore[assignment]
            server.should_exit = True
            # Not left to the group: that would cancel uvicorn in the middle when the block failed.
            await asyncio.wait({task})


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, and with errors instead of `sys.exit`."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.tried = asyncio.Event()  # the start is over, well or not
        config.load()
        if config.lifespan_class is LifespanOn:
            config.lifespan_class = _Lifespan

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield  # the lifecycle has them

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().serve(sockets)
        finally:
            self.tried.set()
        await self._raise_failure()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit as exc:
            for bound in sockets or []:
                bound.close()
            await self._raise_failure()
            raise RuntimeError("the HTTP server did not start") from exc
        self.tried.set()

    async def on_tick(self, counter: int) -> bool:
        failed = isinstance(self.lifespan, _Lifespan) and self.lifespan.failure is not None
        return await super().on_tick(counter) or failed

    async def _raise_failure(self) -> None:
        if isinstance(self.lifespan, _Lifespan):
            await self.lifespan.over.wait()
            if self.lifespan.failure is not None:
                raise self.lifespan.failure


class _Lifespan(LifespanOn):
    """Keeps the application's error instead of logging its traceback, so that it ends the tier under its own name."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.failure: BaseException | None = None
        self.over = asyncio.Event()

    async def main(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": self.config.asgi_version, "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self.config.loaded_app(scope, self.receive, self.send)
        except BaseException as exc:
            self.failure = exc
            self.error_occurred = True
        finally:
            self.startup_event.set()
            self.shutdown_event.set()
            self.over.set()

    async def send(self, message: Any) -> None:
        if message["type"].endswith(".failed"):
            message = {"type": message["type"]}
        await super().send(message)
