"""The whole product as real processes: start, wait until ready, kill, pause, start again, each by its pid.

Everything ends with the harness, even when that one is killed: the kernel tells its children.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from tests.until import scaled, until
from ticketwire.embedded.process import die_with_parent, free_port

ROOT = Path(__file__).parents[2]
LEASE_MS = 1_000  # a fifth of the default, so that faults bite
PARTITIONS = 8

Kind = str  # "ingest", "worker" or "delivery"
_MODULES = {"ingest": "ingest", "worker": "workers", "delivery": "delivery"}


class Tier:
    """One process of a tier, at the same addresses through all its restarts."""

    def __init__(self, kind: Kind, name: str, environment: Mapping[str, str], folder: Path) -> None:
        self.kind = kind
        self.name = name
        self.port = free_port() if kind != "worker" else 0
        self.internal_port = free_port()
        self.log = folder / f"{name}.log"
        self.restarts = 0  # by `Stack.supervise`
        self.instructed = False
        self.nap_s = LEASE_MS / 1000
        self._wake_at: float | None = None  # monotonic seconds; None: nobody said when
        self._process: subprocess.Popen[bytes] | None = None
        self._doomed: set[int] = set()  # pids that we killed, or told to kill themselves
        prefix = kind.upper()
        self._environment = {
            **environment,
            f"{prefix}_INTERNAL_HOST": "127.0.0.1",
            f"{prefix}_INTERNAL_PORT": str(self.internal_port),
            f"{prefix}_NAME": name,
        }
        if self.port:
            self._environment |= {f"{prefix}_HOST": "127.0.0.1", f"{prefix}_PORT": str(self.port)}
        if kind == "ingest":
            self._environment |= {"INGEST_ADMIN_HOST": "127.0.0.1", "INGEST_ADMIN_PORT": str(free_port())}

    @property
    def url(self) -> str:
        """Where its clients find it; without a scheme."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def stopped(self) -> bool:
        """Whether a SIGSTOP holds it."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        except FileNotFoundError:
            return False

    def start(self, **instructions: str) -> None:
        """Start it; with *instructions* under `tests.faults.instrumented`, which follows them. From the main thread."""
        assert not self.alive, f"{self.name} runs already"
        module = _MODULES[self.kind]
        self._wake_at = None
        self.instructed = bool(instructions)
        argv = ["-m", "tests.faults.instrumented", module] if instructions else ["-m", module]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *argv],
                cwd=ROOT,
                env={**_clean_environment(), **self._environment, **instructions},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the harness
                preexec_fn=die_with_parent(signal.SIGKILL),
            )
        if instructions:
            self._doomed.add(self.pid)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and collect it."""
        self._doomed.add(self.pid)
        self.send(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def pause(self, seconds: float) -> None:
        """SIGSTOP; `Stack.supervise` wakes it."""
        self._wake_at = time.monotonic() + seconds
        self.send(signal.SIGSTOP)

    def doomed(self, pid: int) -> bool:
        """Whether one of its processes was meant to die by SIGKILL, whatever else was done to it."""
        return pid in self._doomed

    def wake_if_due(self, now: float) -> None:
        """Wake it when its pause is over. One that paused itself (`instrumented`) sleeps for *self.nap_s* from now."""
        if self._wake_at is None:
            self._wake_at = now + self.nap_s
        elif now >= self._wake_at:
            self._wake_at = None
            self.send(signal.SIGCONT)

    async def ended(self, timeout_s: float = 15.0) -> int:
        """Wait for its end; return the exit code, negative for a signal."""
        process = self._process
        assert process is not None
        await until(lambda: process.poll() is not None, timeout_s)
        assert process.returncode is not None
        return process.returncode

    async def ready(self, timeout_s: float = 30.0) -> None:
        """Wait until `/readyz` says so. Fails, quoting its log, when it ends instead."""
        async with httpx.AsyncClient(timeout=2) as client:

            async def is_ready() -> bool:
                assert self.alive, f"{self.name} ended while starting: {self.last_words()}"
                try:
                    answer = await client.get(f"http://127.0.0.1:{self.internal_port}/readyz")
                except httpx.TransportError:
                    return False
                return answer.status_code == 200

            await until(is_ready, timeout_s, every_s=0.02)

    async def listens(self) -> bool:
        """Whether it has come so far as to answer `/livez`."""
        async with httpx.AsyncClient(timeout=2) as client:
            try:
                return (await client.get(f"http://127.0.0.1:{self.internal_port}/livez")).status_code == 200
            except httpx.TransportError:
                return False

    async def metric(self, name: str) -> float:
        """Read one sample of `/metrics`: *name* with its labels, as Prometheus writes it; 0 when there is none."""
        async with httpx.AsyncClient(timeout=2) as client:
            text = (await client.get(f"http://127.0.0.1:{self.internal_port}/metrics")).text
        found = [line.rpartition(" ")[2] for line in text.splitlines() if line.rpartition(" ")[0] == name]
        return float(found[0]) if found else 0.0

    def last_words(self, lines: int = 5) -> str:
        return " | ".join(self.log.read_text(errors="replace").strip().splitlines()[-lines:])

    def end(self) -> None:
        """Whatever state it is in."""
        if self.alive:
            self.kill()


def _clean_environment() -> dict[str, str]:
    """Ours without settings of the product: what a developer has set must not reach the tests."""
    ours = ("TICKETWIRE_", "INGEST_", "WORKER_", "DELIVERY_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


class Stack:
    """Tiers on one Redis and one PostgreSQL, which belong to the caller."""

    def __init__(
        self,
        folder: Path,
        redis_url: str | Mapping[Kind, str],
        database_url: str,
        *,
        ingests: int = 1,
        workers: int = 2,
        deliveries: int = 1,
        **settings: str,
    ) -> None:
        """*redis_url*: one for all, or one for each kind. *settings*: variables beyond those that every run has."""
        environment = {
            "TICKETWIRE_DATABASE_URL": database_url,
            "TICKETWIRE_AUTH": "off",
            "TICKETWIRE_LEASE_TTL_MS": str(LEASE_MS),
            "TICKETWIRE_PARTITIONS": str(PARTITIONS),
            "TICKETWIRE_REDIS_TIMEOUT_MS": "1000",
            "TICKETWIRE_LOG_ENTRIES": "1000000",  # so that logs can be compared whole
            "TICKETWIRE_DRAIN_SECONDS": str(scaled(10)),
            "TICKETWIRE_POLICY": str(Path(__file__).with_name("policy.yaml")),
            **settings,
        }
        urls = dict.fromkeys(_MODULES, redis_url) if isinstance(redis_url, str) else redis_url

        def make(kind: Kind, count: int) -> list[Tier]:
            own = {**environment, "TICKETWIRE_REDIS_URL": urls[kind]}
            return [Tier(kind, f"{kind}-{n}", own, folder) for n in range(1, count + 1)]

        self.folder = folder
        self.ingests = make("ingest", ingests)
        self.workers = make("worker", workers)
        self.deliveries = make("delivery", deliveries)

    @property
    def tiers(self) -> list[Tier]:
        return [*self.ingests, *self.workers, *self.deliveries]

    async def ready(self, timeout_s: float = 30.0) -> None:
        await asyncio.gather(*(tier.ready(timeout_s) for tier in self.tiers))

    async def whole(self) -> None:
        """Bring back whatever is down or paused, and wait until all is as after the start."""
        for tier in self.tiers:
            if tier.instructed:  # or it would follow its instructions later
                tier.end()
            if tier.alive:
                tier.send(signal.SIGCONT)
            else:
                tier.start()
        await self.ready()
        await self.shared_out()

    async def supervise(self) -> None:
        """Start again, for ever, what died, as Kubernetes would, and wake at its time what was paused."""
        while True:
            for tier in self.tiers:
                if not tier.alive:
                    tier.restarts += 1
                    tier.start()
                elif tier.stopped:
                    tier.wake_if_due(time.monotonic())
            await asyncio.sleep(0.05)

    def end(self) -> None:
        """End all processes, whatever state they are in."""
        for tier in self.tiers:
            tier.end()

    async def shared_out(self, among: Iterable[Tier] | None = None) -> None:
        """Wait until every partition has an owner and each worker of *among* (all by default) has its share."""
        workers = list(among or self.workers)

        async def is_so() -> bool:
            owned = [await worker.metric("workers_partitions") for worker in workers]
            return sum(owned) == PARTITIONS and max(owned) - min(owned) <= 1

        await until(is_so, timeout_s=20, every_s=0.05)


@asynccontextmanager
async def running(
    folder: Path, redis_url: str | Mapping[Kind, str], database_url: str, **options: object
) -> AsyncIterator[Stack]:
    """A stack that is ready; all its processes end with the block."""
    stack = Stack(folder, redis_url, database_url, **options)  # type: ignore[arg-type]
    try:
        await stack.whole()
        yield stack
    finally:
        stack.end()
