"""The runs: what is done to a scene, and what is allowed to have happened then."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from redis.asyncio import Redis

from tests.faults.checker import Evidence, Findings, check
from tests.faults.faults import cause
from tests.faults.ground import bring_up, kill
from tests.faults.load import Load
from tests.faults.scene import Scene
from tests.until import until

TICKETS = 24
RATE = 8.0  # messages a second and ticket
FLUSHALL, FAILOVER = "FLUSHALL", "failover to a lagging replica"
LOST_METRIC = "ingest_lost_after_failover_total"


def fate(number: int) -> str:
    """Let some messages end in another way: see `policy.yaml`."""
    return {7: " holdme", 13: " rejectme"}.get(number % 20, "")


@dataclass(slots=True)
class Report:
    """What a run showed."""

    name: str
    seconds: float
    findings: Findings
    accepted: int = 0
    archived: int = 0
    dead: int = 0
    retries: int = 0
    reconnects: int = 0
    longest_stall_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    stalls: dict[str, float] = field(default_factory=dict)  # by what caused them, seconds
    lost: int = 0  # accepted messages that Redis lost, lawfully or not
    missed: int = 0  # accepted messages that ingest's metric calls lost
    second_ids: int = 0  # see `_excuse_second_ids`
    faulty: list[str] = field(default_factory=list)  # wrong besides messages: answers, exit codes

    @property
    def good(self) -> bool:
        """Nothing may have gone wrong."""
        return self.findings.clean and not self.faulty

    def describe(self) -> str:
        return "\n".join([self.findings.describe(), *self.faulty[:10]])


async def _judged(
    name: str, scene: Scene, load: Load, began: float, excuse: Callable[[Report], Awaitable[None]] | None = None
) -> Report:
    """Let *load* finish, check everything, and keep the evidence if something is wrong that *excuse* leaves."""
    scene.timeline.append((time.time(), "the end"))
    await scene.stack.whole()
    await load.finish()
    evidence = await load.evidence()
    report = Report(
        name=name,
        seconds=time.monotonic() - began,
        findings=check(evidence),
        accepted=load.accepted,
        archived=len(evidence.archive),
        dead=len(evidence.dead),
        retries=load.retries,
        reconnects=sum(subscriber.connections for subscriber in load.subscribers) - len(load.subscribers),
        longest_stall_s=load.longest_stall(),
        faulty=[*scene.notes, *load.unexpected],
    )
    scene.notes.clear()
    if excuse is not None:
        await excuse(report)
    if not report.good:
        _keep(scene, evidence, report)
    return report


def _keep(scene: Scene, evidence: Evidence, report: Report) -> None:
    """Put everything that was recorded beside the logs, so that a violation can be looked into."""
    (scene.ground.folder / "findings.json").write_text(json.dumps(asdict(report.findings), indent=1))
    (scene.ground.folder / "evidence.json").write_text(json.dumps(asdict(evidence), default=sorted, indent=1))
    (scene.ground.folder / "timeline.json").write_text(json.dumps(scene.timeline, indent=1))


async def mixed(scene: Scene, seconds: float, seed: int) -> Report:
    """Everything at once, by chance."""
    began = time.monotonic()
    async with scene.load(tickets=TICKETS, seed=seed, rate=RATE, stay_s=10.0, fate=fate) as load:
        faults = await cause(scene, seconds, seed)
        report = await _judged("mixed", scene, load, began)
    report.faults = faults
    return report


async def singles(scene: Scene, rounds: int, outage_s: float) -> Report:
    """One fault at a time, each measured by the longest wait of any message from accept to confirm."""
    began = time.monotonic()
    stalls: dict[str, float] = {}
    faults: Counter[str] = Counter()

    async def kill_a_worker() -> None:
        scene.stack.workers[faults["worker SIGKILL"] % len(scene.stack.workers)].kill()

    async def restart_redis() -> None:
        kill(scene.ground.redis)
        await bring_up(scene.ground.redis)

    async def stop_postgres() -> None:
        await asyncio.to_thread(scene.ground.postgres.stop)
        await asyncio.sleep(outage_s)
        await bring_up(scene.ground.postgres)

    turns = [("worker SIGKILL", kill_a_worker), ("Redis SIGKILL and restart", restart_redis)] * rounds
    async with scene.load(tickets=TICKETS, seed=1, rate=RATE) as load:
        for name, fault in [*turns, (f"PostgreSQL away for {outage_s:g} s", stop_postgres)]:
            await _calm(load)
            at = time.time()
            scene.timeline.append((at, name))
            await fault()
            await scene.stack.whole()
            await _calm(load)
            stalls[name] = max(stalls.get(name, 0.0), load.longest_stall(since=at))
            faults[name] += 1
        report = await _judged("one at a time", scene, load, began)
    report.stalls, report.faults = stalls, faults
    return report


async def _calm(load: Load) -> None:
    """Wait until every ticket goes on: what was accepted from now on is confirmed, so what came before is settled."""
    now = time.time()
    await until(lambda: load.goes_on(now), timeout_s=60)


async def losing(scene: Scene, rounds: int, how: str, *, lag_s: float = 1.0, durable: bool = False) -> Report:
    """Let Redis lose messages again and again: by a failover to a replica that lags, or by FLUSHALL.

    In every other round the workers are paused, so that accepted messages are lost that nobody has read; else confirmed
    ones. Unless *durable* (durability `replica`) the former is lawful if ingest missed every one of them.
    """

    async def excuse(report: Report) -> None:
        report.lost = len(report.findings.lost)
        report.missed = await _missed(scene, report.lost)
        if report.missed != report.lost:
            report.faulty.append(f"{report.lost} were lost, ingest missed {report.missed}")
        elif not durable:
            report.findings.lost.clear()
        _excuse_second_ids(report)

    began = time.monotonic()
    async with scene.load(tickets=TICKETS, seed=1, rate=RATE) as load:
        for number in range(rounds):
            await _calm(load)
            scene.timeline.append((time.time(), f"round {number} begins"))
            if number % 2 == 0:
                for worker in scene.stack.workers:
                    worker.pause(lag_s + 0.5)
            await _lose(scene, how, lag_s)
            scene.timeline.append((time.time(), f"round {number} ends"))
        await _calm(load)
        report = await _judged(how, scene, load, began, excuse)
    report.faults = Counter({how: rounds})
    return report


async def _lose(scene: Scene, how: str, lag_s: float) -> None:
    if how == FLUSHALL:
        await asyncio.sleep(lag_s)
        async with Redis.from_url(scene.ground.redis.url) as redis:
            await redis.flushall()
    else:
        assert scene.pair is not None
        scene.pair.freeze_replica()
        await asyncio.sleep(lag_s)
        await scene.pair.fail_over()


async def _missed(scene: Scene, enough: int) -> int:
    """Return how many messages all ingest nodes call lost, once that are *enough*: they look twice, a lease apart."""

    async def missed() -> int:
        return round(sum([await node.metric(LOST_METRIC) for node in scene.stack.ingests]))

    async def are_enough() -> bool:
        return await missed() >= enough

    with suppress(AssertionError):  # that they are fewer is the finding
        await until(are_enough, timeout_s=30)
    return await missed()


def _excuse_second_ids(report: Report) -> None:
    """Take out what Redis's forgetting of idempotency keys does.

    A try is stored and archived, its reply is lost, and then Redis loses the key: the next try is stored once more and
    told the second id. The archive recognises it, the second entry is buried as a duplicate, the first is shown.
    """
    report.second_ids = len(report.findings.renamed)
    report.findings.renamed.clear()
