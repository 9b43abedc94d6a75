"""Public and internal HTTP servers of a tier, on real sockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.until import scaled, until
from ticketwire.errors import SettingsError
from ticketwire.lifecycle import Lifecycle
from ticketwire.limited_http import LimitedHttp
from ticketwire.serving import bind, http_server, port_of, uvicorn_config
from ticketwire.telemetry.exposition import LOOP_LAG, MAX_CONNECTIONS, serve_internal
from ticketwire.telemetry.health import Health


@asynccontextmanager
async def internal(health: Health, **options: float) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serve_internal("127.0.0.1", 0, health, **options) as port,  # type: ignore[arg-type]
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        yield client


async def test_livez_answers_whatever_is_down() -> None:
    """Restarting a tier does not heal Redis."""
    health = Health("redis")
    health.draining = True
    async with internal(health) as client:
        assert (await client.get("/livez")).status_code == 200


async def test_readyz_tells_each_check() -> None:
    """503 while anything fails or while draining; the body says what."""
    health = Health("redis")
    async with internal(health) as client:
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["checks"] == [{"name": "redis", "ok": False, "reason": "has not reported yet"}]
        health.set("redis", True)
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["ready"]) == (200, True)
        health.draining = True
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["draining"]) == (503, True)


async def test_metrics_hold_the_process_the_loop_and_the_tier() -> None:
    """The default registry brings memory, CPU and descriptors; another one can be given."""
    registry = CollectorRegistry()
    Counter("kiosk_sold", "Things sold", registry=registry).inc(3)
    async with internal(Health()) as client:
        text = (await client.get("/metrics")).text
        assert "process_resident_memory_bytes" in text
        assert "loop_lag_seconds_bucket" in text
    async with serve_internal("127.0.0.1", 0, Health(), registry) as port, httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{port}/metrics")
        assert "kiosk_sold_total 3.0" in answer.text
        assert answer.headers["content-type"].startswith("text/plain; version=")


async def test_a_blocked_loop_shows_in_its_lag() -> None:
    """The metric that tells a busy loop from a slow dependency."""

    def late() -> float:
        return sum(float(s.value) for m in LOOP_LAG.collect() for s in m.samples if s.name.endswith("_sum"))

    async with internal(Health()):
        before = late()
        await until(lambda: late() > 0 or before > 0)
        before = late()
        time.sleep(0.6)  # the bug that the metric is for
        await until(lambda: late() - before > 0.2)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /other HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /livez HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", b"405"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"\xff\xfe\r\n\r\n", b"400"),
        (b"GET /livez HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", b"431"),
        (b"HEAD /livez?x=1 HTTP/1.0\r\n\r\n", b"200"),
    ],
)
async def test_odd_requests_get_the_fitting_status(request_bytes: bytes, status: bytes) -> None:
    """Nothing that a scanner sends is a traceback."""
    async with serve_internal("127.0.0.1", 0, Health()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes)
        assert (await reader.readline()).split(b" ")[1] == status
        writer.close()


async def test_slow_clients_are_cut_and_the_others_served() -> None:
    """Half a request holds a connection for seconds, not for ever, and nobody else waits."""
    health = Health()
    async with serve_internal("127.0.0.1", 0, health, timeout_s=0.3) as port:
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
        for _, writer in slow:
            writer.write(b"GET /livez HT")
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"http://127.0.0.1:{port}/livez")).status_code == 200
        for reader, writer in slow:
            try:
                left = await asyncio.wait_for(reader.read(), scaled(5))
            except ConnectionResetError:
                left = b""
            assert left == b""
            writer.close()


async def test_too_many_connections_are_closed_not_queued() -> None:
    """An internal port under attack must not take the tier's memory."""
    async with serve_internal("127.0.0.1", 0, Health()) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_CONNECTIONS)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(reader.read(), scaled(5)) == b""
        for _, other in [*held, (reader, writer)]:
            other.close()


async def test_a_taken_internal_port_is_told() -> None:
    """One line with address and reason, not a traceback."""
    async with serve_internal("127.0.0.1", 0, Health()) as port:
        with pytest.raises(SettingsError, match=rf"127.0.0.1:{port} cannot be had"):
            async with serve_internal("127.0.0.1", port, Health()):
                raise AssertionError("two servers on one port")


def test_a_taken_public_port_names_its_variable() -> None:
    """So does an address that is not ours, or no address at all."""
    with bind("127.0.0.1", 0, "KIOSK_PORT") as first:
        first.listen()
        with pytest.raises(SettingsError, match=rf"KIOSK_PORT is {port_of(first)}, .* 127.0.0.1: Address already"):
            bind("127.0.0.1", port_of(first), "KIOSK_PORT")
    with pytest.raises(SettingsError, match=r"KIOSK_PORT is 1, which cannot be had on 192.0.2.1"):
        bind("192.0.2.1", 1, "KIOSK_PORT")
    with pytest.raises(SettingsError, match="KIOSK_PORT: the address 'no such host' is unknown"):
        bind("no such host", 1, "KIOSK_PORT")


async def slow(request: Request) -> PlainTextResponse:
    request.app.state.entered.set()
    await asyncio.sleep(float(request.query_params["seconds"]))
    return PlainTextResponse(request.state.word)


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.receive()


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
    app.state.entered = asyncio.Event()
    yield {"word": "state of the lifespan"}
    app.state.closed = True


def kiosk() -> Starlette:
    return Starlette(routes=[Route("/slow", slow), WebSocketRoute("/ws", socket)], lifespan=lifespan)


async def test_open_requests_finish_and_sockets_get_1012() -> None:
    """The order of a drain: no new connections, open work done, the lifespan closed last."""
    app, lifecycle = kiosk(), Lifecycle(drain_seconds=10)
    bound = bind("127.0.0.1", 0, "KIOSK_PORT")
    port = port_of(bound)
    async with httpx.AsyncClient() as client:
        async with http_server(uvicorn_config(app), bound, lifecycle):
            open_request = asyncio.create_task(client.get(f"http://127.0.0.1:{port}/slow?seconds=0.3"))
            subscriber = await connect(f"ws://127.0.0.1:{port}/ws")
            await app.state.entered.wait()
            lifecycle.stop("test")
        assert (await open_request).text == "state of the lifespan"
        with pytest.raises(ConnectionClosed) as closed:
            await subscriber.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        assert app.state.closed
        with pytest.raises(httpx.ConnectError):
            await client.get(f"http://127.0.0.1:{port}/slow?seconds=0")


async def test_a_request_past_the_deadline_is_cut() -> None:
    """The deadline wins over the slowest request."""
    app, lifecycle = kiosk(), Lifecycle(drain_seconds=1)
    bound = bind("127.0.0.1", 0, "KIOSK_PORT")
    port = port_of(bound)
    async with httpx.AsyncClient(timeout=60) as client:
        async with http_server(uvicorn_config(app), bound, lifecycle):
            open_request = asyncio.create_task(client.get(f"http://127.0.0.1:{port}/slow?seconds=60"))
            await app.state.entered.wait()
            lifecycle.stop("test")
        assert lifecycle.remaining() > 0
        with pytest.raises(httpx.HTTPError):
            (await open_request).raise_for_status()


async def test_a_fault_inside_the_block_still_closes_the_application() -> None:
    """Connections to Redis and PostgreSQL are given back, and the fault is not masked."""
    app = kiosk()
    with pytest.raises(ExceptionGroup) as caught:
        async with http_server(uvicorn_config(app), bind("127.0.0.1", 0, "KIOSK_PORT"), Lifecycle(drain_seconds=10)):
            raise ValueError("mine")
    assert [repr(inner) for inner in caught.value.exceptions] == ["ValueError('mine')"]
    assert app.state.closed


async def test_readyz_is_json_with_a_length() -> None:
    """Probes and scripts read it."""
    async with internal(Health("a")) as client:
        answer = await client.get("/readyz")
        assert json.loads(answer.content)["ready"] is False
        assert int(answer.headers["content-length"]) == len(answer.content)


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("hello")(scope, receive, send)


async def _raw(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.read(), scaled(10))
    finally:
        writer.close()


async def test_a_request_whose_head_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvicorn would wait for ever, and a few thousand such connections are all it has."""
    monkeypatch.setattr(LimitedHttp, "head_seconds", 0.2)
    bound = bind("127.0.0.1", 0, "TEST_PORT")
    async with http_server(uvicorn_config(hello, lifespan="off"), bound, Lifecycle(scaled(5))):
        for head in (b"", b"GET / HTTP/1.1\r\nHost:", b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HT"):
            assert b"408 Request Timeout" in await _raw(port_of(bound), head)


async def test_a_head_that_is_too_large_is_refused() -> None:
    bound = bind("127.0.0.1", 0, "TEST_PORT")
    async with http_server(uvicorn_config(hello, lifespan="off"), bound, Lifecycle(scaled(5))):
        answer = await _raw(port_of(bound), b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n")
        assert b"431 Request Header Fields Too Large" in answer
