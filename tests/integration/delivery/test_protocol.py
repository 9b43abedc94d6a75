"""The WebSocket protocol as an ASGI server: applications that attach a handler and applications that do not."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from delivery.app import server_options
from delivery.conversation import MOST_WAITING
from delivery.protocol import EXTENSION, SocketProtocol, Sockets
from delivery.settings import DeliverySettings
from delivery.wire import text_frame
from tests.until import scaled, until
from ticketwire.lifecycle import Lifecycle
from ticketwire.serving import bind, http_server, port_of, uvicorn_config
from ticketwire.settings import SharedSettings

SHARED = SharedSettings.model_validate(
    {"redis_url": "redis://none", "database_url": "postgresql://none/x", "auth": "off"}
)
Open = Callable[..., ClientConnection]


@asynccontextmanager
async def serving(application: object, **options: object) -> AsyncIterator[tuple[str, Sockets]]:
    """Run *application* under uvicorn with our protocols; yields its URL."""
    sockets = Sockets(DeliverySettings.model_validate({"shared": SHARED, **options}))
    bound = bind("127.0.0.1", 0, "TEST_PORT")
    async with http_server(uvicorn_config(application, **server_options(sockets)), bound, Lifecycle(scaled(2))):
        yield f"ws://127.0.0.1:{port_of(bound)}", sockets


class Handler:
    """Records what it is told."""

    def __init__(self) -> None:
        self.socket: SocketProtocol | None = None
        self.events: list[object] = []

    def on_open(self, socket: SocketProtocol) -> None:
        self.socket = socket

    def on_text(self, text: str) -> None:
        self.events.append(text)

    def on_bytes(self, data: bytes) -> None:
        self.events.append(data)

    def on_drained(self) -> None:
        self.events.append("drained")

    def on_close(self, code: int) -> None:
        self.events.append(code)


def routes(**endpoints: Callable[[WebSocket], object]) -> Starlette:
    return Starlette(routes=[WebSocketRoute(f"/{name}", endpoint) for name, endpoint in endpoints.items()])


async def closed(client: ClientConnection) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed) as end:
        await asyncio.wait_for(client.recv(), scaled(5))
    assert end.value.rcvd is not None
    return end.value.rcvd.code, end.value.rcvd.reason


async def test_ordinary_applications_work() -> None:
    """Text, bytes, subprotocol, headers, and a close from either side."""
    left: list[int] = []

    async def echo(websocket: WebSocket) -> None:
        await websocket.accept(subprotocol=websocket.scope["subprotocols"][0], headers=[(b"x-own", b"1")])
        try:
            while True:
                message = await websocket.receive()
                if message["type"] == "websocket.disconnect":
                    raise WebSocketDisconnect(message["code"])
                if message.get("text") == "bye":
                    await websocket.close(4000, "as you wish")
                    return
                answer = {"type": "websocket.send", "text": message.get("text"), "bytes": message.get("bytes")}
                await websocket.send(answer)
        except WebSocketDisconnect as exc:
            left.append(exc.code)

    async with serving(routes(echo=echo)) as (url, _):
        async with connect(f"{url}/echo?a=1", subprotocols=["one", "two"]) as client:  # type: ignore[list-item]
            assert client.subprotocol == "one"
            assert client.response is not None
            assert client.response.headers["x-own"] == "1"
            for value in ("grüße", b"\0\1", "x" * 60_000):
                await client.send(value)
                assert await client.recv() == value
            await client.close(3000)
        await until(lambda: left == [3000])
        async with connect(f"{url}/echo", subprotocols=["one"]) as client:  # type: ignore[list-item]
            await client.send("bye")
            assert await closed(client) == (4000, "as you wish")


async def test_an_application_that_lags_behind_slows_its_client() -> None:
    """Reading pauses instead of a queue that grows."""
    go, waiting = asyncio.Event(), [0]

    async def slow(websocket: WebSocket) -> None:
        await websocket.accept()
        await go.wait()
        for _ in range(2_000):
            waiting[0] = max(waiting[0], len(websocket._receive.__self__._waiting))  # type: ignore[attr-defined]
            await websocket.receive_text()
        await websocket.send_text("all")

    async with serving(routes(slow=slow)) as (url, _), connect(f"{url}/slow") as client:
        sending = asyncio.ensure_future(_send_all(client, 2_000))
        await asyncio.wait([sending], timeout=scaled(0.3))
        assert not sending.done()
        go.set()
        assert await asyncio.wait_for(client.recv(), scaled(20)) == "all"
        await sending
    # What one read of the transport brings is taken whole: 64 frames of 4 KB in 256 KB.
    assert waiting[0] <= MOST_WAITING + 66


async def _send_all(client: ClientConnection, count: int) -> None:
    for _ in range(count):
        await client.send("x" * 4_000)


async def test_faults_of_applications_are_answered() -> None:
    """500 before the upgrade, 4002 after it, never a hanging socket."""

    async def before(websocket: WebSocket) -> None:
        raise RuntimeError("before")

    async def after(websocket: WebSocket) -> None:
        await websocket.accept()
        raise RuntimeError("after")

    async def nothing(websocket: WebSocket) -> None:
        """Neither accepts nor denies."""

    async def done(websocket: WebSocket) -> None:
        await websocket.accept()

    async def denied(websocket: WebSocket) -> None:
        await websocket.send_denial_response(PlainTextResponse("no", 418, {"x-why": "teapot"}))

    async def closed_first(websocket: WebSocket) -> None:
        await websocket.close()

    app = routes(before=before, after=after, nothing=nothing, done=done, denied=denied, closed_first=closed_first)
    async with serving(app) as (url, sockets):
        for path, status in (("before", 500), ("nothing", 500), ("denied", 418), ("closed_first", 403)):
            with pytest.raises(InvalidStatus) as refused:
                async with connect(f"{url}/{path}"):
                    pass
            assert refused.value.response.status_code == status
        async with connect(f"{url}/after") as client:
            assert await closed(client) == (4002, "a fault of the service")
        async with connect(f"{url}/done") as client:
            assert (await closed(client))[0] == 1000
        await until(lambda: len(sockets.wheel) == 0)


async def test_an_attached_handler_outlives_its_application() -> None:
    """The call returns, its task ends, and the socket goes on; what came before is handed over, in order."""
    handler, attach = Handler(), asyncio.Event()
    tasks: list[weakref.ref[asyncio.Task[None]]] = []

    async def application(websocket: WebSocket) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(weakref.ref(task))
        await websocket.accept()
        await attach.wait()
        websocket.scope["extensions"][EXTENSION]["attach"](handler)

    async with serving(routes(it=application)) as (url, _), connect(f"{url}/it") as client:
        await client.send("one")
        await client.send(b"two")
        await (await client.ping())  # both were read
        attach.set()
        await until(lambda: handler.events == ["one", b"two"])
        await client.send("three")
        await until(lambda: handler.events == ["one", b"two", "three"])
        await until(lambda: gc.collect() is None or tasks[0]() is None)
        assert handler.socket is not None
        handler.socket.write(text_frame(b"a") + text_frame(b"b"))
        assert [await client.recv(), await client.recv()] == ["a", "b"]
        await client.close(3001)
        await until(lambda: handler.events[-1] == 3001)


async def test_a_handler_attached_to_a_socket_that_is_gone_is_told() -> None:
    """Between accept and attach the client may leave."""
    handler, attach = Handler(), asyncio.Event()

    async def application(websocket: WebSocket) -> None:
        await websocket.accept()
        await attach.wait()
        websocket.scope["extensions"][EXTENSION]["attach"](handler)

    async with serving(routes(it=application)) as (url, sockets):
        async with connect(f"{url}/it"):
            pass
        await until(lambda: len(sockets.wheel) == 0)
        attach.set()
        await until(lambda: handler.events == [1006])


async def test_a_writer_can_wait_for_a_slow_reader() -> None:
    """`paused` above the mark; `drained` and `on_drained` when the client has read; nothing is lost."""
    handler = Handler()

    async def application(websocket: WebSocket) -> None:
        await websocket.accept()
        websocket.scope["extensions"][EXTENSION]["attach"](handler)

    frame = text_frame(b"x" * 60_000)
    options = {"send_mark_bytes": 65_536, "send_buffer_bytes": 2**30}
    async with AsyncExitStack() as stack:
        url, _ = await stack.enter_async_context(serving(routes(it=application), **options))
        client = await stack.enter_async_context(connect(f"{url}/it", max_queue=1, close_timeout=0.1))
        await until(lambda: handler.socket)
        socket = handler.socket
        assert socket is not None
        sent = 0
        while not socket.paused:
            socket.write(frame)
            sent += 1
            await asyncio.sleep(0)
        assert socket.buffered > 65_536
        waiting = asyncio.ensure_future(socket.drained())
        await asyncio.sleep(0)
        assert not waiting.done()
        for _ in range(sent):
            assert len(await client.recv()) == 60_000
        await asyncio.wait_for(waiting, scaled(5))
        assert handler.events == ["drained"]
        while not socket.paused:
            socket.write(frame)
            await asyncio.sleep(0)
        waiting = asyncio.ensure_future(socket.drained())
        await asyncio.sleep(0)
        socket.abort()
        await asyncio.wait_for(waiting, scaled(5))  # nobody waits for a socket that is gone


async def test_requests_are_served_beside_sockets() -> None:
    """The same port, kept connections, an upgrade on a connection that was used before."""

    async def page(request: object) -> PlainTextResponse:
        return PlainTextResponse("page")

    async def hello(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(json.dumps(websocket.scope["path"]))

    app = Starlette(routes=[Route("/page", page), WebSocketRoute("/grüße", hello)])
    async with serving(app) as (url, _):
        host, port = url.removeprefix("ws://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        for _ in range(2):
            writer.write(b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(4) == b"page"
        writer.write(
            b"GET /gr%C3%BC%C3%9Fe HTTP/1.1\r\nHost: x\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head  # RFC 6455 section 1.3
        assert head.lower().count(b"\r\ndate:") == 1
        frame = await reader.readexactly(2)
        assert json.loads(await reader.readexactly(frame[1])) == "/grüße"
        writer.close()
