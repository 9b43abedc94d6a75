"""The delivery tier as a user runs it (acks, windows, heartbeats on) beside what others do, all in one run.

    python -m bench.delivery [--rounds 3] [--seconds 6] [--runs fan1000,saturated,rooms,idle,resume] [--peers …]

    floor          a bare send, see bench.fanout
    ticketwire     plain sockets;  ticketwire-v1: clients that acknowledge as docs/protocol.md asks them to
    nchan          nginx with its module, where both are installed (Debian: nginx libnginx-mod-nchan)
    socketio       Socket.IO, redis-streams adapter; after `npm install` of bench/peers/socketio in PEERS_HOME/sio
    centrifugo     with Redis, where $CENTRIFUGO_BIN is its binary

`fan1000`: 1,000 sockets on one ticket, 20 messages/s. `saturated`: the same, 16 messages under way at any time.
`rooms`: 500 tickets of 2 sockets, 1,000 messages/s. `idle`: memory of 5,000 quiet sockets. `resume`: 1,000 clients at
once, each 100 messages behind. CPU is the server's without Redis, in microseconds a delivery.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import uvloop

from bench.fanout import (
    MARK,
    RUNS,
    WARM_UP_S,
    Count,
    Peer,
    Receiver,
    Run,
    body,
    floor_peer,
    hello,
    listening,
    masked,
    measure,
    plain,
    process,
    rss_kib,
    ticketwire_peer,
)
from bench.machine import cpu_seconds
from schemas.frames import SUBPROTOCOL
from ticketwire.embedded.process import free_port
from ticketwire.embedded.redis_server import EmbeddedRedis

OUTSTANDING = 16  # messages under way when saturated
BEHIND = 100  # messages each client has missed in `resume`
ACK_EVERY_S = 5.0
ACK_EVERY = 256  # half of the default window
AIMS = """aims: fan1000 CPU <= 1.35 x floor, <= 1.0 x nchan, <= 0.65 x socketio
      saturated >= 4 x nchan, >= 8 x socketio; rooms CPU <= 0.6 x socketio
      idle <= 15 KiB plain, <= 20 KiB v1"""
Post = Callable[[str, bytes, str], Awaitable[None]]
Make = Callable[[Path], AbstractAsyncContextManager[Peer]]


def frame(**fields: object) -> bytes:
    """A client's text frame, masked with zeros."""
    payload = json.dumps(fields).encode()
    size = len(payload)
    head = bytes((0x81, 0x80 | size)) if size < 126 else bytes((0x81, 0xFE)) + size.to_bytes(2, "big")
    return head + b"\0\0\0\0" + payload


class Acking(Receiver):
    """A v1 client that acknowledges at half of its window, or after five seconds."""

    unacked = 0
    acked_at = 0.0
    ticket = ""

    def _message(self, data: bytes, start: int) -> None:
        super()._message(data, start)
        found = data.find(b'"message_id":"', start, start + 200)
        if found < 0:
            return
        self.unacked += 1
        if self.unacked >= ACK_EVERY or time.monotonic() - self.acked_at > ACK_EVERY_S:
            end = data.index(b'"', found + 14)
            self.ack(data, found + 14, end, start)

    def ack(self, data: bytes, begin: int, end: int, start: int) -> None:
        self.unacked, self.acked_at = 0, time.monotonic()
        at = data.index(b'"ticket_id":"', start) + 13
        ticket = data[at : data.index(b'"', at)].decode()
        assert self.transport is not None
        self.transport.write(frame(type="ack", ticket_id=ticket, position=data[begin:end].decode()))


@contextlib.asynccontextmanager
async def v1_peer(folder: Path) -> AsyncIterator[Peer]:
    """The same tier, with clients of ticketwire.v1."""
    async with ticketwire_peer(folder) as peer:
        users = iter(range(10**9))

        def connect(ticket: int) -> bytes:
            return frame(type="connect", user=f"u{next(users)}", resume={str(ticket): None})

        yield replace(peer, hello=lambda _: hello("/", SUBPROTOCOL), after=connect, receiver=Acking)


# --- others


async def post(port: int) -> Post:
    """Return a publisher by HTTP on one connection, one request at a time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    turn = asyncio.Lock()

    async def send(path: str, message: bytes, headers: str) -> None:
        async with turn:
            head = f"POST {path} HTTP/1.1\r\nHost: bench\r\n{headers}Content-Length: {len(message)}\r\n\r\n"
            writer.write(head.encode() + message)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            if b"content-length:" in answer:
                await reader.readexactly(int(answer.partition(b"content-length:")[2].partition(b"\r\n")[0]))

    return send


@contextlib.asynccontextmanager
async def nchan_peer(folder: Path) -> AsyncIterator[Peer]:
    port = free_port()
    folder.mkdir(parents=True)
    config = folder / "nginx.conf"
    config.write_text(
        f"worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log warn;"
        f"load_module {nchan_module()};"
        "worker_rlimit_nofile 20000; events { worker_connections 18000; multi_accept on; }"
        "http { access_log off; tcp_nodelay on; keepalive_requests 100000000; nchan_shared_memory_size 512M;"
        f"server {{ listen 127.0.0.1:{port} backlog=4096;"
        "location = /pub { nchan_publisher; nchan_channel_id $arg_room; nchan_message_buffer_length 100; }"
        "location = /ws { nchan_subscriber websocket; nchan_channel_id $arg_room;"
        "nchan_subscriber_first_message newest; nchan_websocket_ping_interval 25s; } } }"
    )
    with process(str(shutil.which("nginx")), "-c", str(config), "-e", f"{folder}/start.log") as pid:
        await listening(port)
        send = await post(port)

        async def publish(ticket: int, text: str) -> None:
            await send(f"/pub?room=r{ticket}", plain(ticket, text), "")

        yield Peer(pid, port, lambda n: hello(f"/ws?room=r{n}"), lambda _: b"", publish)


def nchan_module() -> Path:
    return Path("/usr/lib/nginx/modules/ngx_nchan_module.so")


@contextlib.asynccontextmanager
async def socketio_peer(folder: Path) -> AsyncIterator[Peer]:
    port, here = free_port(), Path(__file__).parent / "peers" / "socketio" / "server.js"
    modules = Path(os.environ["PEERS_HOME"], "sio", "node_modules")
    with EmbeddedRedis(folder / "redis") as redis:
        env = {"NODE_PATH": str(modules), "REDIS_URL": redis.url, "PORT": str(port), "NODE_ENV": "production"}
        with process("node", str(here), env=env) as pid:
            await listening(port)
            send = await post(port)

            async def publish(ticket: int, text: str) -> None:
                await send(f"/pub?room=r{ticket}", plain(ticket, text), "Content-Type: application/json\r\n")

            def join(ticket: int) -> bytes:
                return masked(b"40") + masked(b'42["join","r%d"]' % ticket)

            yield Peer(pid, port, lambda _: hello("/socket.io/?EIO=4&transport=websocket"), join, publish)


@contextlib.asynccontextmanager
async def centrifugo_peer(folder: Path) -> AsyncIterator[Peer]:
    port = free_port()
    folder.mkdir(parents=True)
    with EmbeddedRedis(folder / "redis") as redis:
        settings = {
            "http_server": {"address": "127.0.0.1", "port": str(port)},
            "usage_stats": {"disabled": True},
            "log": {"level": "warn"},
            "engine": {"type": "redis", "redis": {"address": redis.url}},
            "http_api": {"key": "bench"},
            "client": {"allowed_origins": ["*"], "allow_anonymous_connect_without_token": True},
            "channel": {
                "without_namespace": {
                    "history_size": 100, "history_ttl": "300s", "force_recovery": True,
                    "allow_subscribe_for_client": True, "allow_subscribe_for_anonymous": True,
                }
            },
        }  # fmt: skip
        (folder / "config.json").write_text(json.dumps(settings))
        with process(os.environ["CENTRIFUGO_BIN"], "--config", str(folder / "config.json")) as pid:
            await listening(port)
            send = await post(port)

            async def publish(ticket: int, text: str) -> None:
                message = json.dumps({"channel": f"r{ticket}", "data": json.loads(plain(ticket, text))}).encode()
                await send("/api/publish", message, "X-API-Key: bench\r\nContent-Type: application/json\r\n")

            def join(ticket: int) -> bytes:
                return frame(id=1, connect={}) + frame(id=2, subscribe={"channel": f"r{ticket}"})

            yield Peer(pid, port, lambda _: hello("/connection/websocket"), join, publish)


@contextlib.asynccontextmanager
async def floor(_folder: Path) -> AsyncIterator[Peer]:
    async with floor_peer() as peer:
        yield peer


def available() -> dict[str, Make]:
    """Everybody who can be started here."""
    found: dict[str, Make] = {"floor": floor, "ticketwire": ticketwire_peer, "ticketwire-v1": v1_peer}
    if shutil.which("nginx") and nchan_module().exists():
        found["nchan"] = nchan_peer
    if shutil.which("node") and Path(os.environ.get("PEERS_HOME", "/nowhere"), "sio", "node_modules").is_dir():
        found["socketio"] = socketio_peer
    if os.environ.get("CENTRIFUGO_BIN"):
        found["centrifugo"] = centrifugo_peer
    return found


# --- runs


class Counting(Receiver):
    """Counts messages without taking frames apart: when saturated the generator is the narrow place."""

    def data_received(self, data: bytes) -> None:
        if not self._up.done():
            super().data_received(data)
            return
        found = (self._left + data).count(MARK)
        self._left = data[-len(MARK) + 1 :]
        self._count.frames += found
        self._count.reads += 1
        self.got(data, found)

    def got(self, data: bytes, found: int) -> None: ...


class CountingAcks(Counting):
    """The same for v1."""

    unacked = 0

    def got(self, data: bytes, found: int) -> None:
        self.unacked += found
        if self.unacked >= ACK_EVERY:
            begin = data.rfind(b'"message_id":"')
            end = data.find(b'"', begin + 14)
            if begin >= 0 and end > 0:
                self.unacked = 0
                assert self.transport is not None
                self.transport.write(frame(type="ack", ticket_id="0", position=data[begin + 14 : end].decode()))


async def connected(peer: Peer, run: Run, count: Count) -> list[asyncio.Transport]:
    loop, transports, ups = asyncio.get_running_loop(), [], []
    for number in range(run.sockets):
        up: asyncio.Future[None] = loop.create_future()
        ticket = number % run.tickets
        make = lambda t=ticket, u=up: peer.receiver(peer.hello(t), peer.after(t), count, u)  # noqa: E731
        transport, _ = await loop.create_connection(make, "127.0.0.1", peer.port)
        transports.append(transport)
        ups.append(up)
        if len(ups) % 100 == 0:
            await asyncio.gather(*ups)
    await asyncio.gather(*ups)
    await asyncio.sleep(1.0)  # subscriptions follow the handshakes
    return transports


async def saturate(peer: Peer, run: Run, seconds: float) -> dict[str, float]:
    """Keep OUTSTANDING messages under way; return deliveries a second and CPU of each."""
    peer = replace(peer, receiver=CountingAcks if peer.receiver is Acking else Counting)
    count = Count()
    transports = await connected(peer, run, count)
    published, sending = 0, set[asyncio.Task[None]]()
    began = frames = 0.0
    cpu, end, warm = 0.0, time.monotonic() + WARM_UP_S + seconds, time.monotonic() + WARM_UP_S
    try:
        while time.monotonic() < end:
            if not began and time.monotonic() >= warm:
                began, frames, cpu = time.monotonic(), count.frames, cpu_seconds(peer.pid)
            while published - count.frames / run.sockets < OUTSTANDING:
                task = asyncio.ensure_future(peer.publish(0, body()))
                sending.add(task)
                task.add_done_callback(sending.discard)
                published += 1
            await asyncio.sleep(0)
        got, wall = count.frames - frames, time.monotonic() - began
        return {"per_s": got / wall, "cpu": (cpu_seconds(peer.pid) - cpu) / got * 1e6}
    finally:
        await asyncio.gather(*sending, return_exceptions=True)
        for transport in transports:
            transport.abort()


async def resume(peer: Peer, run: Run, seconds: float) -> dict[str, float]:
    """All clients of v1 come at once, each BEHIND messages: time until all have them, and the peak of memory."""
    count = Count()
    for _ in range(BEHIND):
        await peer.publish(0, body())
    before = rss_kib(peer.pid)
    back = replace(
        peer,
        receiver=CountingAcks,
        after=lambda _: frame(type="connect", user=f"u{time.monotonic_ns()}", resume={"0": "0-0"}),
    )
    loop, start, peak = asyncio.get_running_loop(), time.monotonic(), before
    cpu = cpu_seconds(peer.pid)
    ups: list[asyncio.Future[None]] = [loop.create_future() for _ in range(run.sockets)]
    made = [
        loop.create_connection(
            lambda u=up: back.receiver(back.hello(0), back.after(0), count, u), "127.0.0.1", peer.port
        )  # type: ignore[misc]
        for up in ups
    ]
    transports = [transport for transport, _ in await asyncio.gather(*made)]
    while count.frames < BEHIND * run.sockets and time.monotonic() - start < 60:
        peak = max(peak, rss_kib(peer.pid))
        await asyncio.sleep(0.02)
    took = time.monotonic() - start
    for transport in transports:
        transport.abort()
    if count.frames < BEHIND * run.sockets:
        raise RuntimeError(f"{count.frames} of {BEHIND * run.sockets} messages came")
    used = cpu_seconds(peer.pid) - cpu
    return {"seconds": took, "peak_mib": (peak - before) / 1024, "cpu": used / count.frames * 1e6}


async def one(name: str, peer: Peer, run: str, seconds: float) -> dict[str, float]:
    if run == "saturated":
        return await saturate(peer, RUNS["fan1000"], seconds)
    if run == "resume":
        return await resume(peer, RUNS["fan1000"], seconds)
    return await measure(peer, RUNS[run], seconds)


def wanted(run: str, peers: list[str]) -> list[str]:
    if run == "resume":
        return [name for name in peers if name == "ticketwire-v1"]
    if run == "idle":
        return [name for name in peers if name.startswith("ticketwire")]
    return peers


async def main(given: argparse.Namespace) -> None:
    makers = available()
    peers = given.peers.split(",") if given.peers else list(makers)
    with tempfile.TemporaryDirectory(prefix="ticketwire-bench-", ignore_cleanup_errors=True) as folder:
        for run in given.runs.split(","):
            found: dict[str, list[dict[str, float]]] = {name: [] for name in wanted(run, peers)}
            for number in range(given.rounds):
                for name in found:
                    async with makers[name](Path(folder, f"{run}-{name}-{number}")) as peer:
                        found[name].append(await one(name, peer, run, given.seconds))
            report(run, found)
    print(AIMS)


def report(run: str, found: dict[str, list[dict[str, float]]]) -> None:
    medians = {
        name: {key: statistics.median(result[key] for result in results) for key in results[0]}
        for name, results in found.items()
    }
    print(f"\n{run}")
    for name, values in medians.items():
        ratios = [
            f"{key} {values[key] / other[key]:.2f} x {base}"
            for base, other in medians.items()
            if name.startswith("ticketwire") and not base.startswith("ticketwire")
            for key in ("cpu", "per_s")
            if key in values and key in other and (key == "cpu" or run == "saturated")
        ]
        print(
            f"  {name:14}", "  ".join(f"{key} {value:11.2f}" for key, value in values.items()), " ", ", ".join(ratios)
        )
    print(flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="fan1000,saturated,rooms,idle,resume")
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default="", help="everybody who can be started here, if empty")
    uvloop.install()
    # One measurement at a time on a machine: two would measure each other.
    with open(Path(tempfile.gettempdir(), "bench.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        asyncio.run(main(parser.parse_args()))
