"""Load on a stack, and a record of all that was sent, answered and seen."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import asyncpg
import redis.exceptions
from redis.asyncio import Redis
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from schemas.keys import Keys
from schemas.message_id import MessageId
from tests.faults.checker import Accepted, ClientLog, Evidence, Letter, Row, Shown
from tests.faults.sender import Sender
from tests.faults.stack import PARTITIONS, Tier
from tests.until import scaled, until

KEYS = Keys(PARTITIONS)
_RUNS = itertools.count(1)
TRY_SECONDS = 2.0  # less than ingest's own deadline, so that tries overlap
_OUTAGES = (redis.exceptions.RedisError, OSError)


@dataclass(slots=True)
class Producer:
    """Sends one ticket's messages one after another, each until it is accepted."""

    ticket: str
    sent: list[str] = field(default_factory=list)
    accepted: list[Accepted] = field(default_factory=list)
    retries: int = 0
    unexpected: list[str] = field(default_factory=list)  # answers that no fault excuses
    fate: Callable[[int], str] = lambda _: ""  # what to append to the text of message n, for `policy.yaml`

    async def run(self, nodes: Sequence[Tier], rng: random.Random, rate: float, most: int | None = None) -> None:
        """Send *rate* messages a second (0: as fast as they are accepted) until *most* or cancelled."""
        sender = Sender()
        try:
            while most is None or len(self.sent) < most:
                key = f"{self.ticket}/{len(self.sent)}{self.fate(len(self.sent))}"
                self.sent.append(key)
                await self._accept(sender, nodes, rng, key)
                if rate:
                    await asyncio.sleep(rng.expovariate(rate))
        finally:
            sender.close()

    async def _accept(self, sender: Sender, nodes: Sequence[Tier], rng: random.Random, key: str) -> None:
        while True:
            try:
                status, body = await sender.send(rng.choice(nodes).url, self.ticket, key, key.split()[0], TRY_SECONDS)
            except OSError:
                pass  # killed, paused or cut: nobody knows whether it was stored
            else:
                if status == 200:
                    self.accepted.append(Accepted(key, json.loads(body)["message_id"]))
                    return
                if status != 503:
                    self.unexpected.append(f"{status} {body[:200]}")
            self.retries += 1
            await asyncio.sleep(rng.uniform(0.02, 0.1))


@dataclass(slots=True)
class Subscriber:
    """Listens to one ticket from its beginning, and comes back with its position whatever happens."""

    log: ClientLog
    connections: int = 0
    refused: int = 0

    async def run(
        self, nodes: Sequence[Tier], rng: random.Random, heard: Callable[[ClientLog, str], None], stay_s: float = 0.0
    ) -> None:
        """Until cancelled. With *stay_s* it leaves by itself now and then, as people do."""
        since = "0-0"
        while True:
            node = rng.choice(nodes)
            url = f"ws://{node.url}/?ticket_id={self.log.ticket}&since={since}"
            # A paused node is noticed by its missing pongs.
            try:
                async with (
                    asyncio.timeout(rng.expovariate(1 / stay_s) if stay_s else None),
                    connect(url, open_timeout=2, ping_interval=2, ping_timeout=2, close_timeout=1) as socket,
                ):
                    self.connections += 1
                    async for text in socket:
                        frame = json.loads(text)
                        since = frame["message_id"]
                        self.log.received.append(Shown(since, frame["message"]))
                        heard(self.log, since)
            except (OSError, TimeoutError, WebSocketException):
                self.refused += 1
            await asyncio.sleep(rng.uniform(0.02, 0.2))


class Watcher:
    """Sees when each message is confirmed, by reading all logs; and asks the archive right after readers were shown."""

    def __init__(self, tickets: Sequence[str], redis_url: str, database_url: str) -> None:
        self.confirmed_at: dict[str, float] = {}  # key -> Unix seconds
        self.asked = 0
        self._redis_url = redis_url
        self._database_url = database_url
        self._after = dict.fromkeys((KEYS.log(ticket) for ticket in tickets), "0-0")
        self._questions: asyncio.Queue[tuple[ClientLog, str]] = asyncio.Queue(maxsize=100)

    async def watch(self) -> None:
        """Follow all logs, for ever, through every outage."""
        while True:
            with suppress(*_OUTAGES):
                async with Redis.from_url(self._redis_url, decode_responses=True, socket_timeout=3) as redis:
                    while True:
                        reply = await redis.xread(self._after, count=1_000, block=1_000)
                        now = time.time()
                        for log, entries in reply:
                            self._after[log] = entries[-1][0]
                            for _, pairs in entries:
                                self.confirmed_at.setdefault(pairs["message"], now)
            await asyncio.sleep(0.02)

    def ask(self, log: ClientLog, message_id: str) -> None:
        """A reader was shown *message_id* just now. Asked as often as PostgreSQL keeps up; a sample is enough."""
        with suppress(asyncio.QueueFull):
            self._questions.put_nowait((log, message_id))

    async def audit(self) -> None:
        """Ask the archive, for ever."""
        while True:
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
                connection = await asyncpg.connect(self._database_url, timeout=2)
                try:
                    while True:
                        log, message_id = await self._questions.get()
                        ms, _, seq = message_id.partition("-")
                        found = await connection.fetchval(
                            "SELECT 1 FROM messages WHERE ticket_id = $1 AND id_ms = $2 AND id_seq = $3",
                            log.ticket, int(ms), int(seq), timeout=2,
                        )  # fmt: skip
                        self.asked += 1
                        if found is None:
                            log.unarchived.append(message_id)
                finally:
                    connection.terminate()
            await asyncio.sleep(0.05)


class Load:
    """Producers and subscribers of some tickets: at work within `async with`, until `finish`; then `evidence`."""

    def __init__(
        self,
        ingests: Sequence[Tier],
        deliveries: Sequence[Tier],
        redis_url: str,
        database_url: str,
        *,
        tickets: int,
        seed: int,
        rate: float = 0.0,
        most: int | None = None,
        stay_s: float = 0.0,
        fate: Callable[[int], str] = lambda _: "",
    ) -> None:
        """*rate* messages a second and ticket, *most* messages of each; *stay_s*: see `Subscriber.run`."""
        run = next(_RUNS)  # tickets of one run only, so that several can share a stack
        names = [f"T{run}-{n}" for n in range(tickets)]
        self.producers = [Producer(ticket, fate=fate) for ticket in names]
        self.subscribers = [Subscriber(ClientLog(f"reader-{n}", ticket)) for n, ticket in enumerate(names)]
        self.watcher = Watcher(names, redis_url, database_url)
        self._redis_url = redis_url
        self._database_url = database_url
        self._ingests, self._deliveries = ingests, deliveries
        self._seed, self._rate, self._most, self._stay_s = seed, rate, most, stay_s
        self._sending: list[asyncio.Task[None]] = []
        self._listening: list[asyncio.Task[None]] = []

    @property
    def accepted(self) -> int:
        return sum(len(producer.accepted) for producer in self.producers)

    async def __aenter__(self) -> Load:
        rng = random.Random(self._seed)
        watcher = self.watcher
        self._listening = [asyncio.create_task(watcher.watch()), asyncio.create_task(watcher.audit())]
        for subscriber in self.subscribers:
            run = subscriber.run(self._deliveries, random.Random(rng.random()), watcher.ask, self._stay_s)
            self._listening.append(asyncio.create_task(run))
        for producer in self.producers:
            sending = producer.run(self._ingests, random.Random(rng.random()), self._rate, self._most)
            self._sending.append(asyncio.create_task(sending))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def _end(self) -> list[Exception]:
        """End all tasks; return what they failed with."""
        tasks = [*self._sending, *self._listening]
        self._sending, self._listening = [], []
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        return [e for e in ended if isinstance(e, Exception)]

    async def sent(self, timeout_s: float = 60.0) -> None:
        """Wait until every producer has sent its most."""
        await asyncio.wait_for(asyncio.gather(*self._sending), scaled(timeout_s))

    async def finish(self, timeout_s: float = 60.0) -> None:
        """Send no more; wait until everything is settled and every subscriber has all of its ticket."""
        for task in self._sending:
            task.cancel()
        await until(self._settled, timeout_s, every_s=0.1)
        await self._all_heard(timeout_s)
        faults = await self._end()
        if faults:
            raise ExceptionGroup("the harness itself failed", faults)

    async def _settled(self) -> bool:
        """Nothing lies on an ingest stream. (A try that its producer gave up may still come; it is not owed.)"""
        with suppress(*_OUTAGES):
            async with Redis.from_url(self._redis_url, socket_timeout=3) as client:
                return not any([await client.xlen(KEYS.ingest(p)) for p in range(PARTITIONS)])
        return False

    async def _all_heard(self, timeout_s: float) -> None:
        shown = {producer.ticket: set[str]() for producer in self.producers}
        for row in await read_archive(self._database_url):
            if row.status in ("confirmed", "masked") and row.ticket in shown:
                shown[row.ticket].add(row.message_id)
        behind = list(self.subscribers)

        def nobody_is_behind() -> bool:
            behind[:] = [s for s in behind if shown[s.log.ticket] - {e.message_id for e in s.log.received}]
            return not behind

        # Who is behind for good is the checker's finding: it names the messages.
        with suppress(AssertionError):
            await until(nobody_is_behind, timeout_s, every_s=0.1)

    async def evidence(self) -> Evidence:
        """Collect everything, after `finish`."""
        archive = await read_archive(self._database_url)
        async with Redis.from_url(self._redis_url, decode_responses=True, encoding_errors="surrogateescape") as client:
            logs = {}
            for producer in self.producers:
                entries = await client.xrange(KEYS.log(producer.ticket))
                logs[producer.ticket] = [Shown(at, pairs["message"]) for at, pairs in entries]
            dead = [_letter(pairs) for p in range(PARTITIONS) for _, pairs in await client.xrange(KEYS.dead(p))]
            pending = [at for p in range(PARTITIONS) for at, _ in await client.xrange(KEYS.ingest(p))]
        return Evidence(
            sent={producer.ticket: producer.sent for producer in self.producers},
            accepted={producer.ticket: producer.accepted for producer in self.producers},
            archive=[row for row in archive if row.ticket in logs],
            logs=logs,
            dead=[letter for letter in dead if letter.ticket in logs],
            pending=frozenset(pending),
            clients=[subscriber.log for subscriber in self.subscribers],
        )

    def longest_stall(self, since: float = 0.0, until: float = math.inf) -> float:
        """The longest time from accept to confirm, seconds, of messages that waited at some time in between."""
        stalls = [
            at - accepted_s
            for producer in self.producers
            for answer in producer.accepted
            if (at := self.watcher.confirmed_at.get(answer.key)) is not None
            and at >= since
            and (accepted_s := MessageId.parse(answer.message_id).ms / 1000) <= until
        ]
        return max(stalls, default=0.0)

    def goes_on(self, since: float) -> bool:
        """Whether of every ticket a message accepted after *since* (Unix seconds) has been confirmed."""
        confirmed = self.watcher.confirmed_at
        return all(
            any(
                answer.key in confirmed and MessageId.parse(answer.message_id).ms / 1000 > since
                for answer in reversed(producer.accepted[-100:])
            )
            for producer in self.producers
        )

    @property
    def unexpected(self) -> list[str]:
        return [answer for producer in self.producers for answer in producer.unexpected]

    @property
    def retries(self) -> int:
        return sum(producer.retries for producer in self.producers)


def _letter(pairs: dict[str, str]) -> Letter:
    listed = json.loads(pairs["fields"])
    original = dict(zip(listed[::2], listed[1::2], strict=True))
    return Letter(original["ticket_id"], pairs["entry_id"], original["message"], pairs["reason"])


async def read_archive(database_url: str) -> list[Row]:
    """All messages."""
    connection = await asyncpg.connect(database_url)
    try:
        records = await connection.fetch("SELECT ticket_id, id_ms, id_seq, body, status FROM messages")
    finally:
        await connection.close()
    return [Row(ticket, f"{ms}-{seq}", body, status) for ticket, ms, seq, body, status in records]
