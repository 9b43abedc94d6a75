"""What one delivery costs the delivery tier, relative to what the same send costs bare, in the same run.

    python -m bench.fanout [--run fan1000] [--seconds 6] [--rounds 3] [--peers floor,ticketwire]

Runs: `fan1000` 1,000 sockets on one ticket, 20 messages/s; `rooms` 500 tickets of 2 sockets, 1,000 messages/s;
`idle` 5,000 sockets that get nothing: memory of each.

    floor       a C program that sends the same bytes with send(2): `$PEERS_HOME/bin/floor`, where there is one;
                else uvloop writing a prebuilt frame to each transport
    ticketwire  `python -m delivery`, the real tier: Redis, rooms, bounds, pings; fed by confirm.lua

CPU is the server process's user and system time per 1,000 deliveries, in ms (= microseconds a delivery). The load
generator is a process of its own and its CPU is not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import fcntl
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import uvloop

from bench.machine import cpu_seconds, percentile
from delivery.wire import text_frame
from schemas.entries import encode_confirmed
from schemas.events import Confirmed, event_tail
from ticketwire.bus.bus import open_bus
from ticketwire.bus.partition import Lease, Partition, Settlement
from ticketwire.embedded.postgres_server import EmbeddedPostgres
from ticketwire.embedded.process import free_port
from ticketwire.embedded.redis_server import EmbeddedRedis
from ticketwire.settings import SharedSettings

AIM = "aim: fan1000 CPU <= 1.4 x floor"
WARM_UP_S = 2.0
PAD = "x" * 100
MARK = b"#t="  # followed by the time of sending, 19 digits of monotonic nanoseconds


@dataclass(frozen=True)
class Run:
    sockets: int
    tickets: int
    rate: float  # messages a second over all tickets


RUNS = {"fan1000": Run(1_000, 1, 20), "rooms": Run(1_000, 500, 1_000), "idle": Run(5_000, 1, 0)}


@dataclass
class Count:
    """What all receiving sockets have got."""

    frames: int = 0
    reads: int = 0
    counting: bool = False
    delays: list[float] = field(default_factory=list)  # seconds


class Receiver(asyncio.Protocol):
    """One socket of the generator: counts frames, answers pings."""

    def __init__(self, hello: bytes, after: bytes, count: Count, up: asyncio.Future[None]) -> None:
        self._hello, self._after, self._count, self._up = hello, after, count, up
        self._left = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        self.transport = transport
        transport.write(self._hello)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._count.counting:
            print("a socket was lost", exc, file=sys.stderr)

    def data_received(self, data: bytes) -> None:
        data = self._left + data
        if not self._up.done():
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                self._left = head
                return
            if b" 101 " not in head:
                self._up.set_exception(RuntimeError(head.decode()))
                return
            assert self.transport is not None
            if self._after:
                self.transport.write(self._after)
            self._up.set_result(None)
        count, at = self._count, 0
        count.reads += 1
        while len(data) - at >= 4:
            size, start = data[at + 1], at + 2
            if size == 126:
                size, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            if len(data) < start + size:
                break
            if data[at] == 0x81:
                self._message(data, start)
            elif data[at] == 0x89 and self.transport is not None:
                self.transport.write(b"\x8a\x80\0\0\0\0")
            at = start + size
        self._left = data[at:]

    def _message(self, data: bytes, start: int) -> None:
        count = self._count
        if count.counting:
            mark = data.find(MARK, start) + len(MARK)
            if mark < len(MARK):
                return  # no message: v1 has other frames too
            count.frames += 1
            count.delays.append((time.monotonic_ns() - int(data[mark : mark + 19])) / 1e9)


def body() -> str:
    return f"{MARK.decode()}{time.monotonic_ns():019d};{PAD}"


def hello(path: str, subprotocol: str = "") -> bytes:
    key = base64.b64encode(b"0123456789abcdef").decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        + (f"Sec-WebSocket-Protocol: {subprotocol}\r\n\r\n" if subprotocol else "\r\n")
    ).encode()


def masked(payload: bytes) -> bytes:
    return bytes((0x81, 0x80 | len(payload))) + b"\0\0\0\0" + payload


# --- peers: how to start one, connect to it, publish to it


Publish = Callable[[int, str], Awaitable[None]]  # ticket's number, body


@dataclass
class Peer:
    pid: int
    port: int
    hello: Callable[[int], bytes]
    after: Callable[[int], bytes]
    publish: Publish
    receiver: type[Receiver] = Receiver


def rss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


@contextlib.contextmanager
def process(*command: str, env: dict[str, str] | None = None) -> Iterator[int]:
    with subprocess.Popen(command, env={**os.environ, **(env or {})}, stdout=subprocess.DEVNULL) as running:
        try:
            yield running.pid
        finally:
            running.send_signal(signal.SIGTERM)
            try:
                running.wait(10)
            except subprocess.TimeoutExpired:
                running.kill()


async def listening(port: int) -> None:
    for _ in range(500):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.02)
    raise RuntimeError(f"nothing listens on port {port}")


@contextlib.asynccontextmanager
async def floor_peer() -> AsyncIterator[Peer]:
    """The C program, or the built-in one of the same behaviour."""
    port = free_port()
    binary = Path(os.environ.get("PEERS_HOME", "/nowhere"), "bin", "floor")
    command = (
        [str(binary), str(port), "send"]
        if binary.exists()
        else [sys.executable, "-m", "bench.fanout", "--floor", str(port)]
    )
    with process(*command) as pid:
        await listening(port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        turn = asyncio.Lock()

        async def publish(ticket: int, text: str) -> None:
            message = plain(ticket, text)
            head = b"POST /pub?room=room%d HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (ticket, len(message))
            async with turn:
                writer.write(head + message)
                answer = await reader.readuntil(b"\r\n\r\n")
                size = int(answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
                await reader.readexactly(size)

        yield Peer(pid, port, lambda _: hello("/ws"), lambda n: masked(b"room%d" % n), publish)
        writer.close()


def plain(ticket: int, text: str) -> bytes:
    """As long as what the delivery tier sends for the same text."""
    fields = {"ticket_id": str(ticket), "message_id": "1700000000000-0", "sender_id": "1", "message": text}
    return json.dumps({**fields, "timestamp": 1_700_000_000}, separators=(",", ":")).encode()


@contextlib.asynccontextmanager
async def ticketwire_peer(folder: Path) -> AsyncIterator[Peer]:
    """The real tier; messages are confirmed by the workers' own script."""
    port, internal = free_port(), free_port()
    with (
        EmbeddedRedis(folder / "redis") as redis,
        EmbeddedPostgres(folder / "postgres", options=("fsync=off",)) as postgres,
    ):
        shared = SharedSettings.model_validate({"redis_url": redis.url, "database_url": postgres.url, "auth": "off"})
        env = {
            "TICKETWIRE_REDIS_URL": redis.url, "TICKETWIRE_DATABASE_URL": postgres.url, "TICKETWIRE_AUTH": "off",
            "DELIVERY_HOST": "127.0.0.1", "DELIVERY_PORT": str(port), "DELIVERY_INTERNAL_PORT": str(internal),
        }  # fmt: skip
        subprocess.run([sys.executable, "-m", "ticketwire.cli", "migrate"], env={**os.environ, **env}, check=True)
        async with open_bus(shared) as bus:
            await bus.check()
            leases: dict[int, tuple[Partition, Lease]] = {}
            for number in range(bus.keys.partitions):
                partition = Partition(bus, number, shared)
                lease = await partition.acquire("bench")
                assert isinstance(lease, Lease)
                leases[number] = partition, lease
            last = 0
            turns = [asyncio.Lock() for _ in leases]  # a partition is settled in order, as by its one owner

            async def publish(ticket: int, text: str) -> None:
                nonlocal last
                number = bus.keys.partition_of(str(ticket))
                partition, lease = leases[number]
                async with turns[number]:
                    last = max(last + 1, int(time.time() * 1000) * 1_000)
                    event = Confirmed(str(ticket), f"{last // 1_000}-{last % 1_000}", "1", text, last // 1_000_000)
                    fields = encode_confirmed(event)
                    done = Settlement(event.message_id, "log", event.ticket_id, event_tail(event), fields)
                    await partition.confirm(lease, [done])

            with process(sys.executable, "-m", "delivery", env=env) as pid:
                await listening(port)
                for _ in range(500):
                    reader, writer = await asyncio.open_connection("127.0.0.1", internal)
                    writer.write(b"GET /readyz HTTP/1.1\r\n\r\n")
                    ready = b" 200 " in await reader.read()
                    writer.close()
                    if ready:
                        break
                    await asyncio.sleep(0.02)
                yield Peer(pid, port, lambda n: hello(f"/?ticket_id={n}"), lambda _: b"", publish)


# --- measuring


async def measure(peer: Peer, run: Run, seconds: float) -> dict[str, float]:
    loop, count = asyncio.get_running_loop(), Count()
    before_kib = rss_kib(peer.pid)
    ups, sockets = [], []
    for number in range(run.sockets):
        up: asyncio.Future[None] = loop.create_future()
        ticket = number % run.tickets
        make = lambda t=ticket, u=up: peer.receiver(peer.hello(t), peer.after(t), count, u)  # noqa: E731
        transport, _ = await loop.create_connection(make, "127.0.0.1", peer.port)
        sockets.append(transport)
        ups.append(up)
        if len(ups) % 100 == 0:
            await asyncio.gather(*ups)
    await asyncio.gather(*ups)
    try:
        if not run.rate:
            await asyncio.sleep(seconds)
            return {"kib": (rss_kib(peer.pid) - before_kib) / run.sockets}
        cpu = wall = 0.0
        published, start = 0, loop.time()
        sending: set[asyncio.Task[None]] = set()
        while (now := loop.time() - start) < WARM_UP_S + seconds:
            if not count.counting and now >= WARM_UP_S:
                await asyncio.gather(*sending)
                await asyncio.sleep(0.2)
                count.counting, first, wall = True, published, time.monotonic()
                cpu = cpu_seconds(peer.pid)
            task = loop.create_task(peer.publish(published % run.tickets, body()))
            sending.add(task)
            task.add_done_callback(sending.discard)
            if len(sending) > 64:
                await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
            published += 1
            await asyncio.sleep(max(0.0, start + published / run.rate - loop.time()))
        await asyncio.gather(*sending)
        expected = (published - first) * (run.sockets // run.tickets)
        for _ in range(300):
            if count.frames >= expected:
                break
            await asyncio.sleep(0.01)
        cpu, wall = cpu_seconds(peer.pid) - cpu, time.monotonic() - wall
        count.counting = False
        if count.frames != expected:
            raise RuntimeError(f"{count.frames} deliveries, {expected} expected")
        delays = sorted(count.delays)
        return {
            "cpu": cpu / count.frames * 1e6,
            "per_s": count.frames / wall,
            "p50": percentile(delays, 0.5) * 1e3,
            "p99": percentile(delays, 0.99) * 1e3,
        }
    finally:
        count.counting = False
        for transport in sockets:
            transport.abort()


async def main(arguments: argparse.Namespace) -> None:
    run = RUNS[arguments.run]
    names = arguments.peers.split(",")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="ticketwire-bench-", ignore_cleanup_errors=True) as folder:
        for number in range(arguments.rounds):
            for name in names:
                made = floor_peer() if name == "floor" else ticketwire_peer(Path(folder, f"{name}{number}"))
                async with made as peer:
                    result = await measure(peer, run, arguments.seconds)
                found[name].append(result)
                print(name, {key: round(value, 2) for key, value in result.items()}, flush=True)
    medians = {
        name: {key: statistics.median(result[key] for result in results) for key in results[0]}
        for name, results in found.items()
    }
    print(f"\n{arguments.run}, medians of {arguments.rounds}:")
    for name, values in medians.items():
        print(f"  {name:12}", "  ".join(f"{key} {value:10.2f}" for key, value in values.items()))
    if {"floor", "ticketwire"} <= set(medians) and "cpu" in medians["floor"]:
        print(f"  ratio of CPU  {medians['ticketwire']['cpu'] / medians['floor']['cpu']:.2f}   ({AIM})")


# --- the built-in floor


async def built_in_floor(port: int) -> None:
    """Speak just enough for the generator: handshake, first frame = room, POST = publish."""
    rooms: dict[bytes, list[asyncio.Transport]] = {}

    class Floor(asyncio.Protocol):
        def __init__(self) -> None:
            self.left, self.up = b"", False

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport = cast(asyncio.Transport, transport)
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            data = self.left + data
            while data:
                if self.up:
                    size = data[1] & 127
                    if data[0] == 0x81:
                        rooms.setdefault(data[6 : 6 + size], []).append(self.transport)
                    data = data[6 + size :]
                    continue
                head, found, rest = data.partition(b"\r\n\r\n")
                if not found:
                    break
                if head.startswith(b"GET"):
                    self.transport.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
                    self.up, data = True, rest
                    continue
                size = int(head.partition(b"Content-Length: ")[2])
                if len(rest) < size:
                    break
                frame = text_frame(rest[:size])
                for transport in rooms.get(head.partition(b"room=")[2].partition(b" ")[0], ()):
                    transport.write(frame)
                self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                data = rest[size:]
            self.left = data

    server = await asyncio.get_running_loop().create_server(Floor, "127.0.0.1", port, backlog=4_096)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", choices=RUNS, default="fan1000")
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default="floor,ticketwire")
    parser.add_argument("--floor", type=int, metavar="PORT", help=argparse.SUPPRESS)
    given = parser.parse_args()
    uvloop.install()
    if given.floor:
        asyncio.run(built_in_floor(given.floor))
    else:
        # One measurement at a time on a machine: two would measure each other.
        with open(Path(tempfile.gettempdir(), "bench.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            asyncio.run(main(given))
