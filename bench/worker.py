"""Our worker against the usual ones, on the same messages, Redis (AOF everysec) and PostgreSQL.

    python -m bench.worker [drain latency kill] [--messages 50000] [--rounds 1] [--peers ours naive faststream-batch]
    TICKETWIRE_POLICY=bench/no_rules.yaml python -m bench.worker …    (without moderation, as the peers)

drain    one worker empties a backlog: messages/s and CPU per message
latency  200 messages/s: from XADD to PUBLISH, and CPU
kill     two workers, one killed with SIGKILL midway: lost, doubled, out of order
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import redis

from bench.machine import cpu_seconds, percentile
from schemas.keys import Keys
from ticketwire.archive.migrate import upgrade
from ticketwire.embedded.postgres_server import EmbeddedPostgres
from ticketwire.embedded.redis_server import EmbeddedRedis

TICKETS, KEYS = 2_000, Keys(16)
RATE = 200  # messages/s of the latency run
PEERS = ("ours", "naive", "faststream-batch")
PEER_TABLE = """
CREATE TABLE peer_messages (
  ticket_id text, sender_id text, body text, client_message_id text, sent_at timestamptz,
  PRIMARY KEY (ticket_id, sender_id, client_message_id))
"""
WORDS = ["room", "key", "booking", "invoice", "please", "help", "late", "arrival", "the", "and", "with", "101"]


@dataclass(frozen=True)
class Message:
    nr: int
    ticket: str
    body: str


def make_messages(count: int) -> list[Message]:
    """40 to 160 characters; 30 in 100 follow up in one of the eight tickets written to last."""
    rng = random.Random(7)
    recent: list[str] = []
    made = []
    for nr in range(count):
        ticket = rng.choice(recent) if recent and rng.random() < 0.3 else f"ticket-{rng.randrange(TICKETS)}"
        recent = [*recent[-7:], ticket]
        size = rng.randrange(40, 161)
        made.append(Message(nr, ticket, " ".join(rng.choices(WORDS, k=size // 5))[:size]))
    return made


class Lab:
    """Redis, PostgreSQL and the workers of one run."""

    def __init__(self, server: EmbeddedRedis, database: EmbeddedPostgres) -> None:
        self.server, self.database = server, database
        self.redis = redis.Redis.from_url(server.url, decode_responses=True, protocol=2)

    def reset(self, peer: str) -> None:
        self.redis.flushall()
        run_sql(self.database.url, "TRUNCATE messages, peer_messages")
        if peer != "ours":
            self.redis.xgroup_create("ingest", "workers", "0", mkstream=True)
        self.redis.config_resetstat()

    def put(self, peer: str, messages: list[Message]) -> None:
        pipe = self.redis.pipeline(transaction=False)
        for message in messages:
            fields = {
                "ticket_id": message.ticket, "sender_id": "1", "message": message.body,
                "client_message_id": f"m-{message.nr}",
            }  # fmt: skip
            if peer == "faststream-batch":  # its own wire format
                fields = {
                    "__data__": json.dumps(
                        {"data": json.dumps(fields), "headers": {"content-type": "application/json"}}
                    )
                }
            pipe.xadd(KEYS.ingest(KEYS.partition_of(message.ticket)) if peer == "ours" else "ingest", fields)  # type: ignore[arg-type]
            if len(pipe) >= 1_000:
                pipe.execute()
        pipe.execute()

    def start(self, peer: str, name: str) -> subprocess.Popen[bytes]:
        urls = {"REDIS_URL": self.server.url, "DATABASE_URL": self.database.url}
        environment = {**os.environ, **urls, "NAME": name}
        if peer == "ours":
            environment |= {f"TICKETWIRE_{key}": value for key, value in urls.items()}
            environment |= {
                "TICKETWIRE_AUTH": "off", "TICKETWIRE_LOG_LEVEL": "error", "WORKER_INTERNAL_PORT": "0",
                "WORKER_INTERNAL_HOST": "127.0.0.1", **policy_environment(),
            }  # fmt: skip
            command = [sys.executable, "-m", "workers"]
        else:
            # FastStream lives in an environment of its own: see `make bench`.
            python = os.environ.get("BENCH_PYTHON", sys.executable)
            command = [python, "-m", f"bench.peers.{peer.replace('-', '_')}"]
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)

    def logged(self) -> int:
        """Messages in all logs; ours keeps all, since no ticket has more than a log holds."""
        return sum(self.redis.xlen(key) for key in self.redis.scan_iter("chat:*", count=5_000))  # type: ignore[misc]

    def order(self) -> tuple[int, int, int]:
        """Return how many messages were seen, doubled, and out of order."""
        seen: set[int] = set()
        doubled = late = 0
        for key in self.redis.scan_iter("chat:*", count=5_000):
            newest = -1
            for _, fields in self.redis.xrange(key):  # type: ignore[union-attr]
                nr = int((fields.get("client_message_id") or fields["key"])[2:])
                doubled += nr in seen
                late += nr < newest
                newest = max(nr, newest)
                seen.add(nr)
        return len(seen), doubled, late

    def backlog(self, peer: str) -> int:
        if peer == "ours":
            return sum(self.redis.xlen(KEYS.ingest(p)) for p in range(16))  # type: ignore[misc]
        group = self.redis.xinfo_groups("ingest")[0]  # type: ignore[index]
        return int(group["pending"]) + int(group["lag"] or 0)

    def cpu(self, *workers: subprocess.Popen[bytes]) -> tuple[float, float, float]:
        assert self.server.pid is not None
        assert self.database.pid is not None
        return sum(cpu_seconds(w.pid) for w in workers), cpu_seconds(self.server.pid), cpu_seconds(self.database.pid)


def run_sql(url: str, statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(statement)
        await connection.close()

    asyncio.run(run())


def rows(url: str, table: str) -> int:
    async def run() -> int:
        connection = await asyncpg.connect(url)
        found = await connection.fetchval(f"SELECT count(*) FROM {table}")
        await connection.close()
        return int(found)

    return asyncio.run(run())


def policy_environment() -> dict[str, str]:
    policy = os.environ.get("TICKETWIRE_POLICY")
    return {"TICKETWIRE_POLICY": policy} if policy else {}


@contextmanager
def running(lab: Lab, peer: str, number: int, paused: bool) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Workers that have had time to start; *paused*, so that a backlog can be put before them."""
    workers = [lab.start(peer, f"w{n}") for n in range(number)]
    try:
        time.sleep(3)
        assert all(w.poll() is None for w in workers), f"{peer} died at its start"
        if paused:
            for worker in workers:
                worker.send_signal(signal.SIGSTOP)
        yield workers
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def drain(lab: Lab, peer: str, messages: list[Message]) -> dict[str, float]:
    lab.reset(peer)
    with running(lab, peer, 1, paused=True) as workers:
        lab.put(peer, messages)
        time.sleep(0.5)
        before, started = lab.cpu(*workers), time.monotonic()
        workers[0].send_signal(signal.SIGCONT)
        while lab.backlog(peer):
            time.sleep(0.02)
        seconds = time.monotonic() - started
        used = [b - a for a, b in zip(before, lab.cpu(*workers), strict=True)]
    _seen, doubled, late = lab.order()
    # Rows, not log entries: a policy holds or rejects some of these texts, which are made of twelve words.
    stored = rows(lab.database.url, "messages" if peer == "ours" else "peer_messages")
    assert stored == len(messages), f"{peer} lost {len(messages) - stored}"
    per = 1e6 / len(messages)
    names = ("worker_us", "redis_us", "postgres_us")
    return {
        "messages_per_s": len(messages) / seconds, **{n: u * per for n, u in zip(names, used, strict=True)},
        "cpu_us": sum(used) * per, "doubled": doubled, "out_of_order": late,
    }  # fmt: skip


def latency(lab: Lab, peer: str, messages: list[Message]) -> dict[str, float]:
    messages = messages[: RATE * 10]
    lab.reset(peer)
    sent: dict[int, float] = {}
    heard: list[float] = []
    with running(lab, peer, 1, paused=False) as workers:
        subscriber = lab.redis.pubsub()
        subscriber.psubscribe("channel:chat:*")
        order: dict[str, list[int]] = {}

        def listen() -> None:
            for got in subscriber.listen():
                ticket = got["channel"]
                if got["type"] == "pmessage" and not ticket.endswith(":events"):
                    heard.append((time.monotonic() - sent[order[ticket].pop(0)]) * 1_000)
                    if len(heard) == len(messages):
                        return

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        before, started = lab.cpu(*workers), time.monotonic()
        for nr, message in enumerate(messages):
            time.sleep(max(0.0, started + nr / RATE - time.monotonic()))
            order.setdefault(KEYS.channel(message.ticket), []).append(message.nr)
            sent[message.nr] = time.monotonic()
            lab.put(peer, [message])
        listener.join(15)
        used = [b - a for a, b in zip(before, lab.cpu(*workers), strict=True)]
        subscriber.close()
    assert len(heard) == len(messages), f"{peer} published {len(heard)} of {len(messages)}"
    heard.sort()
    return {
        "p50_ms": percentile(heard, 0.5),
        "p99_ms": percentile(heard, 0.99),
        "cpu_us": sum(used) * 1e6 / len(messages),
    }


def kill(lab: Lab, peer: str, messages: list[Message]) -> dict[str, float]:
    messages = messages[:20_000]
    lab.reset(peer)
    with running(lab, peer, 2, paused=True) as workers:
        lab.put(peer, messages)
        for worker in workers:
            worker.send_signal(signal.SIGCONT)
        while lab.backlog(peer) > len(messages) // 2:
            time.sleep(0.005)
        workers[0].kill()
        killed = time.monotonic()
        while lab.backlog(peer) and time.monotonic() - killed < 60:
            time.sleep(0.05)
        seconds = time.monotonic() - killed
    seen, doubled, late = lab.order()
    return {
        "not_delivered": len(messages) - seen, "doubled": doubled, "out_of_order": late, "empty_after_s": seconds,
    }  # fmt: skip


RUNS = {"drain": drain, "latency": latency, "kill": kill}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", default=list(RUNS), metavar="RUN", help=", ".join(RUNS))
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS)
    arguments = parser.parse_args()
    messages = make_messages(arguments.messages)
    with (
        tempfile.TemporaryDirectory(prefix="ticketwire-bench-", ignore_cleanup_errors=True) as folder,
        EmbeddedRedis(Path(folder) / "redis") as server,
        EmbeddedPostgres(Path(folder) / "postgres") as database,
    ):
        upgrade(database.url)
        run_sql(database.url, PEER_TABLE)
        lab = Lab(server, database)
        for run in arguments.runs:
            for _ in range(arguments.rounds):
                report(run, {peer: RUNS[run](lab, peer, messages) for peer in arguments.peers})


def report(run: str, results: dict[str, dict[str, float]]) -> None:
    """Print one table; each figure with its ratio to the naive worker's."""
    base = results.get("naive") or next(iter(results.values()))
    print(f"\n## {run}\n")
    print("| worker | " + " | ".join(base) + " |")
    print("|" + "---|" * (len(base) + 1))
    for peer, figures in results.items():
        cells = [f"{v:,.1f}" + (f" ({v / base[k]:.2f} x)" if base[k] else "") for k, v in figures.items()]
        print(f"| {peer} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
