"""How fast messages are accepted without HTTP, relative to pipelined XADDs of a client that does nothing else.

    python -m bench.accept [--messages 200000] [--callers 256]

All on one embedded Redis (AOF everysec), entries of about 150 bytes. The floor is `redis-benchmark -P 64` with its 50
connections where it is on PATH, else the same traffic from a client here that only counts replies: Redis is what
limits either. Against it: validate, group commit and one Lua call per group, as the ingest tier does it, with many
callers that each wait for their message's id; without and with an idempotency key each.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hiredis
import redis
import uvloop

from bench.http_accept import alone
from ingest.group_commit import GroupCommit
from ingest.service import digest_of
from schemas.entries import encode_submitted
from schemas.events import Submitted
from ticketwire.bus.accept import Acceptor, Offer
from ticketwire.bus.bus import open_bus
from ticketwire.embedded.redis_server import EmbeddedRedis
from ticketwire.lifecycle import settle_gc
from ticketwire.settings import SharedSettings

PIPELINE = 64
CONNECTIONS = 50  # redis-benchmark's default
TICKETS = 2_000
AIMS = "aims: >= 0.25, with an idempotency key >= 0.10"
TEXT = "Hello, I need assistance with room 101. The door does not open, and the light is off."


def message(n: int, keyed: bool) -> Submitted:
    return Submitted.model_validate(
        {
            "ticket_id": str(n % TICKETS),
            "sender_id": f"user-{n % 97}",
            "message": TEXT,
            "client_message_id": f"key-{n:020d}" if keyed else None,
        }
    )


class Floor(asyncio.Protocol):
    """Writes 64 XADDs, counts 64 replies, again."""

    def __init__(self, burst: bytes, bursts: int, done: Callable[[], None]) -> None:
        self.burst, self.bursts, self.done = burst, bursts, done
        self.lines = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self.burst)

    def data_received(self, data: bytes) -> None:
        self.lines += data.count(b"\r\n")
        if self.lines < 2 * PIPELINE:  # an id is a bulk string: two lines
            return
        self.lines = 0
        self.bursts -= 1
        if self.bursts:
            self.transport.write(self.burst)
        else:
            self.transport.close()
            self.done()


async def raw_floor(port: int, messages: int) -> float:
    """Return XADDs per second."""
    loop, over, left = asyncio.get_running_loop(), asyncio.Event(), CONNECTIONS

    def done() -> None:
        nonlocal left
        left -= 1
        if not left:
            over.set()

    burst = hiredis.pack_command(("XADD", "floor", "*", *encode_submitted(message(1, False)))) * PIPELINE
    bursts = max(1, messages // CONNECTIONS // PIPELINE)
    began = time.perf_counter()
    for _ in range(CONNECTIONS):
        await loop.create_connection(lambda: Floor(burst, bursts, done), "127.0.0.1", port)
    await over.wait()
    return CONNECTIONS * bursts * PIPELINE / (time.perf_counter() - began)


def floor(port: int, messages: int) -> tuple[str, float]:
    """Measure in a process of its own, as a client would be."""
    if found := shutil.which("redis-benchmark"):
        command = [found, "-p", str(port), "-P", str(PIPELINE), "-n", str(messages), "-q"]
        command += ["xadd", "floor", "*", *encode_submitted(message(1, False))]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return "redis-benchmark -P 64", float(re.findall(r"([\d.]+) requests per second", out)[-1])
    command = [sys.executable, "-m", "bench.accept", "--floor", str(port), "--messages", str(messages)]
    return "pipelined XADD", float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


async def group_commit(url: str, messages: int, callers: int, keyed: bool) -> float:
    """Return messages per second."""
    settings = SharedSettings(redis_url=url, database_url="postgresql://127.0.0.1/none", auth="off")  # type: ignore[arg-type]
    async with open_bus(settings) as bus, contextlib.AsyncExitStack() as stack:
        await bus.check()
        acceptor = Acceptor(bus, settings, retry_ms=5_000, remember_ms=86_400_000)
        commit = await stack.enter_async_context(GroupCommit(acceptor.accept, lanes=1, deadline_s=5.0))
        numbers = iter(range(messages))
        keys = bus.keys

        async def caller() -> None:
            for n in numbers:
                one = message(n, keyed)
                partition = keys.partition_of(one.ticket_id)
                key = digest = ""
                if one.client_message_id is not None:
                    key = keys.idempotency(partition, one.ticket_id, one.sender_id, one.client_message_id)
                    digest = digest_of(one)
                await commit.submit(Offer(partition, key, digest, encode_submitted(one)), 500)

        began = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(callers):
                tasks.create_task(caller())
        return messages / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--callers", type=int, default=256)
    parser.add_argument("--floor", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.floor:
        print(uvloop.run(raw_floor(args.floor, args.messages)))
        return
    settle_gc()
    with (
        alone(),
        tempfile.TemporaryDirectory(prefix="ticketwire-bench-") as folder,
        EmbeddedRedis(Path(folder)) as server,
    ):
        port = urlsplit(server.url).port or 0
        with redis.Redis.from_url(server.url) as client:
            figures: list[tuple[str, float]] = []
            name, base = floor(port, args.messages)
            for label, keyed in (("accept", False), ("accept, idempotency key", True)):
                client.flushall()
                rate = uvloop.run(group_commit(server.url, args.messages, args.callers, keyed))
                stored = sum(client.xlen(f"ingest:{{{p:02d}}}") for p in range(16))
                assert stored == args.messages, f"{stored:,} of {args.messages:,} are on the streams"
                figures.append((label, rate))
            client.flushall()
            base = (base + floor(port, args.messages)[1]) / 2  # before and after, so that a drift shows in neither
    print(f"{args.messages:,} messages, {args.callers} callers; {AIMS}")
    print(f"{name:<26}{base:>10,.0f}/s")
    for label, rate in figures:
        print(f"{label:<26}{rate:>10,.0f}/s{rate / base:>7.2f}")


if __name__ == "__main__":
    main()
