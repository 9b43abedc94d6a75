"""How fast the ingest tier takes messages by HTTP, relative to a bare Starlette endpoint in the same run.

    python -m bench.http_accept [--seconds 5] [--rounds 1] [--connections 64] [--peers bare,xadd,ticketwire]

Each peer is one server process (uvicorn, uvloop, httptools, no access log) with an embedded Redis (AOF everysec),
driven by one client process that keeps every connection busy with form posts of about 180 bytes:

    bare        Starlette: read the body, parse the form, answer 200; no Redis
    bare-gc     the same with the ingest tier's garbage collector settings
    xadd        the same and one redis-py XADD per request, pool of 64
    ticketwire  `python -m ingest`, the real tier

CPU is the server process's user and system time per request.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import redis.asyncio
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ticketwire.embedded.process import free_port
from ticketwire.embedded.redis_server import EmbeddedRedis
from ticketwire.lifecycle import settle_gc

PEERS = ("bare", "xadd", "ticketwire")
WARM_UP_S = 1.5
TICKS = os.sysconf("SC_CLK_TCK")
SAMPLES = 1_000  # different messages, made once
AIMS = "aims: requests/s >= 0.9, CPU <= 1.0, p99 <= 0.33 of xadd's"


def bare_app(redis_url: str | None) -> Starlette:
    """The peers. *redis_url* makes it one XADD per request, as the tutorial has it."""
    client: redis.asyncio.Redis | None = None
    if redis_url:
        pool = redis.asyncio.BlockingConnectionPool.from_url(redis_url, max_connections=64, timeout=5)
        client = redis.asyncio.Redis(connection_pool=pool, retry=None)

    async def send(request: Request) -> JSONResponse:
        form = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
        if not (form.get("ticket_id") and form.get("sender_id") and form.get("message")):
            return JSONResponse({"error": "Missing parameters"}, 400)
        message_id = "1616690567456-0"
        if client is not None:
            message_id = (await client.xadd(f"ingest:{hash(form['ticket_id']) % 16}", form)).decode()
        return JSONResponse({"status": "success", "message_id": message_id})

    return Starlette(routes=[Route("/chat/send", send, methods=["POST"])])


def serve(peer: str, port: int, redis_url: str) -> None:
    app = bare_app(redis_url if peer == "xadd" else None)
    if peer == "bare-gc":
        settle_gc()
    uvicorn.run(app, host="127.0.0.1", port=port, loop="uvloop", http="httptools", access_log=False, log_level="error")


def posts(port: int) -> list[bytes]:
    """Whole requests, ready to be written."""
    made = []
    for n in range(SAMPLES):
        text = f"Hello, I need assistance with room {n}. The door does not open, and the light is off."
        body = urlencode({"ticket_id": f"{n * 7 % 2000}", "sender_id": f"user-{n % 97}", "message": text}).encode()
        made.append(
            b"POST /chat/send HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: bench\r\nAccept: */*\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%b" % (port, len(body), body)
        )
    return made


class Client(asyncio.Protocol):
    """One connection: the next request goes out when the last answer is whole."""

    def __init__(self, requests: list[bytes], at: int, latencies: list[float], bad: list[bytes]) -> None:
        self.requests, self.at, self.latencies, self.bad = requests, at, latencies, bad
        self.buffer = b""
        self.stopped = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport  # uvloop's is no asyncio.Transport
        self.next()

    def next(self) -> None:
        self.at = (self.at + 1) % len(self.requests)
        self.began = time.perf_counter()
        self.transport.write(self.requests[self.at])

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        at = head.lower().index(b"content-length:") + 15
        if len(rest) < int(head[at:].split(b"\r\n", 1)[0]):
            return
        self.buffer = b""
        self.latencies.append(time.perf_counter() - self.began)
        if not head.startswith(b"HTTP/1.1 200"):
            self.bad.append(head[:60] + rest[:100])
        if not self.stopped:
            self.next()


async def load(port: int, seconds: float, connections: int) -> dict[str, object]:
    latencies: list[float] = []
    bad: list[bytes] = []
    loop, requests = asyncio.get_running_loop(), posts(port)
    clients = [
        (await loop.create_connection(lambda n=n: Client(requests, n * 13, latencies, bad), "127.0.0.1", port))[1]
        for n in range(connections)
    ]
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    done = len(latencies)
    for client in clients:
        client.stopped = True
        client.transport.close()
    latencies.sort()
    return {
        "requests": done,
        "rate": done / took,
        "p50_ms": 1e3 * latencies[done // 2],
        "p99_ms": 1e3 * latencies[done * 99 // 100],
        "bad": len(bad),
        "example": bad[0].decode("latin-1") if bad else "",
    }


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextlib.contextmanager
def server(peer: str, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    with EmbeddedRedis(folder / peer) as store:
        port = free_port()
        if peer == "ticketwire":
            command, internal = ["-m", "ingest"], free_port()
            environment = {
                "TICKETWIRE_REDIS_URL": store.url,
                "TICKETWIRE_DATABASE_URL": "postgresql://127.0.0.1:1/nobody",  # only a message's fate asks for it
                "TICKETWIRE_AUTH": "off",
                "INGEST_HOST": "127.0.0.1",
                "INGEST_PORT": str(port),
                "INGEST_ADMIN_HOST": "127.0.0.1",
                "INGEST_ADMIN_PORT": "0",
                "INGEST_INTERNAL_HOST": "127.0.0.1",
                "INGEST_INTERNAL_PORT": str(internal),
                "INGEST_MAX_BACKLOG": "10000000",  # nobody works the backlog off here
                "INGEST_LOW_BACKLOG": "10000000",
            }
        else:
            command = ["-m", "bench.http_accept", "--serve", peer, str(port), store.url]
            environment = {}
        process = subprocess.Popen(
            [sys.executable, *command], env={**os.environ, **environment}, stdout=subprocess.DEVNULL
        )
        try:
            _wait_for(port, process)
            yield process, port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(500):
        if process.poll() is not None:
            raise SystemExit(f"the server ended with code {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise SystemExit(f"nobody listens on port {port}")


def measure(peer: str, folder: Path, seconds: float, connections: int) -> dict[str, float]:
    with server(peer, folder) as (process, port):
        drive = [sys.executable, "-m", "bench.http_accept", "--load", str(port), str(connections)]
        subprocess.run([*drive, str(WARM_UP_S)], check=True, stdout=subprocess.DEVNULL)
        before = cpu_seconds(process.pid)
        out = subprocess.run([*drive, str(seconds)], check=True, capture_output=True, text=True).stdout
        found: dict[str, float] = json.loads(out)
        if found["bad"]:
            raise SystemExit(f"{peer}: {found['bad']} answers other than 200, such as {found['example']}")
        found["cpu_us"] = 1e6 * (cpu_seconds(process.pid) - before) / found["requests"]
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--load", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve[0], int(args.serve[1]), args.serve[2])
        return
    if args.load:
        port, connections, seconds = args.load
        print(json.dumps(uvloop.run(load(int(port), float(seconds), int(connections)))))
        return
    peers = args.peers.split(",")
    runs: dict[str, list[dict[str, float]]] = {peer: [] for peer in peers}
    with alone(), tempfile.TemporaryDirectory(prefix="ticketwire-bench-") as folder:
        for number in range(args.rounds):
            for peer in peers:
                runs[peer].append(measure(peer, Path(folder) / str(number), args.seconds, args.connections))
    figures = {
        peer: {name: statistics.median(run[name] for run in of) for name in ("rate", "p50_ms", "p99_ms", "cpu_us")}
        for peer, of in runs.items()
    }
    base = figures[peers[0]]
    print(f"{args.connections} connections, {args.rounds} x {args.seconds:g} s; relative to {peers[0]}; {AIMS}")
    print(f"{'peer':<12}{'requests/s':>12}{'ratio':>7}{'CPU us':>9}{'ratio':>7}{'p50 ms':>9}{'p99 ms':>9}{'ratio':>7}")
    for peer, own in figures.items():
        print(
            f"{peer:<12}{own['rate']:>12,.0f}{own['rate'] / base['rate']:>7.2f}{own['cpu_us']:>9.1f}"
            f"{own['cpu_us'] / base['cpu_us']:>7.2f}{own['p50_ms']:>9.2f}{own['p99_ms']:>9.2f}"
            f"{own['p99_ms'] / base['p99_ms']:>7.2f}"
        )
    if "xadd" in figures and "ticketwire" in figures:
        print(f"p99 relative to xadd: {figures['ticketwire']['p99_ms'] / figures['xadd']['p99_ms']:.2f}")


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Wait until no other benchmark runs on this machine: they would measure each other."""
    with (Path(tempfile.gettempdir()) / "bench.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    main()
