"""Every fault that the harness knows, and the schedule by which it causes them."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from redis.asyncio import Redis

from tests.faults.ground import bring_up, go_on, kill, pause
from tests.faults.instrumented import names
from tests.faults.scene import KINDS, Scene
from tests.faults.stack import LEASE_MS, Kind, Tier

Fault: TypeAlias = Callable[[Scene, random.Random], Awaitable[None]]
_MODULES = {"ingest": "ingest", "worker": "workers", "delivery": "delivery"}


def _some(scene: Scene, rng: random.Random, kind: Kind) -> Tier:
    return rng.choice([tier for tier in scene.stack.tiers if tier.kind == kind])


def _nap(rng: random.Random) -> float:
    """How long a pause lasts: half a lease to three."""
    return rng.uniform(0.5, 3.0) * LEASE_MS / 1000


# --- tiers


def killing(kind: Kind) -> Fault:
    async def fault(scene: Scene, rng: random.Random) -> None:
        tier = _some(scene, rng, kind)
        if tier.alive:
            tier.kill()

    return fault


def pausing(kind: Kind) -> Fault:
    async def fault(scene: Scene, rng: random.Random) -> None:
        tier = _some(scene, rng, kind)
        if tier.alive and not tier.stopped:
            tier.pause(_nap(rng))

    return fault


def at_a_point(kind: Kind, action: str) -> Fault:
    """Let a tier kill or pause itself at a named await."""

    async def fault(scene: Scene, rng: random.Random) -> None:
        tier = _some(scene, rng, kind)
        tier.end()
        tier.nap_s = _nap(rng)
        point = rng.choice(names(_MODULES[kind]))
        tier.start(FAULT_AT=f"{point}:{rng.randint(1, 30)}:{action}")

    return fault


async def rolling_restart(scene: Scene, rng: random.Random) -> None:
    """One step of it: SIGTERM, an orderly end, a new process."""
    tier = rng.choice(scene.stack.tiers)
    if tier.stopped or not await tier.listens():  # a process that is still starting has no handler for SIGTERM yet
        return
    started, pid = time.monotonic(), tier.pid
    tier.send(signal.SIGTERM)
    code = await tier.ended(timeout_s=30)
    if code != 0 and not (code == -signal.SIGKILL and tier.doomed(pid)):  # another fault may be faster
        took = time.monotonic() - started
        scene.notes.append(f"{tier.name} ended with {code} {took:.1f} s after SIGTERM: {tier.last_words(3)}")


# --- Redis


async def redis_restart(scene: Scene, rng: random.Random) -> None:
    kill(scene.ground.redis)
    await asyncio.sleep(rng.uniform(0.0, 1.5))
    await bring_up(scene.ground.redis)


async def redis_pause(scene: Scene, rng: random.Random) -> None:
    pause(scene.ground.redis)
    try:
        await asyncio.sleep(_nap(rng))
    finally:
        go_on(scene.ground.redis)


def redis_command(*words: str) -> Fault:
    async def fault(scene: Scene, rng: random.Random) -> None:
        async with Redis.from_url(scene.ground.redis.url) as redis:
            await redis.execute_command(*words)

    return fault


async def client_pause(scene: Scene, rng: random.Random) -> None:
    what = rng.choice(["ALL", "WRITE"])
    await redis_command("CLIENT", "PAUSE", str(rng.randint(200, 2_000)), what)(scene, rng)


async def redis_full(scene: Scene, rng: random.Random) -> None:
    """`maxmemory` reached: every write is refused for a while."""
    await redis_command("CONFIG", "SET", "maxmemory", "1mb")(scene, rng)
    try:
        await asyncio.sleep(rng.uniform(0.5, 2.0))
    finally:
        await redis_command("CONFIG", "SET", "maxmemory", "0")(scene, rng)


# --- PostgreSQL


async def postgres_stop(scene: Scene, rng: random.Random) -> None:
    await asyncio.to_thread(scene.ground.postgres.stop)
    await asyncio.sleep(rng.uniform(0.0, 3.0))
    await bring_up(scene.ground.postgres)


async def postgres_kill(scene: Scene, rng: random.Random) -> None:
    kill(scene.ground.postgres)
    await asyncio.sleep(rng.uniform(0.0, 3.0))
    await bring_up(scene.ground.postgres)


async def postgres_pause(scene: Scene, rng: random.Random) -> None:
    pause(scene.ground.postgres)
    try:
        await asyncio.sleep(rng.uniform(0.5, 3.0))
    finally:
        go_on(scene.ground.postgres)


# --- the network between a kind of tier and Redis


async def proxy_delay(scene: Scene, rng: random.Random) -> None:
    proxy = scene.proxies[rng.choice(KINDS)]
    proxy.delay_s = rng.uniform(0.01, 0.3)
    try:
        await asyncio.sleep(rng.uniform(0.5, 2.0))
    finally:
        proxy.delay_s = 0.0


async def proxy_cut(scene: Scene, rng: random.Random) -> None:
    """All connections reset, and for a while no new ones."""
    proxy = scene.proxies[rng.choice(KINDS)]
    proxy.refuse = rng.random() < 0.5
    proxy.cut()
    try:
        await asyncio.sleep(rng.uniform(0.1, 2.0))
    finally:
        proxy.refuse = False


async def proxy_swallow(scene: Scene, rng: random.Random) -> None:
    """Requests arrive, replies do not."""
    proxy = scene.proxies[rng.choice(KINDS)]
    proxy.swallow_replies()
    try:
        await asyncio.sleep(rng.uniform(0.1, 2.0))
    finally:
        proxy.stop_swallowing()


TIERS: dict[str, Fault] = {
    **{f"{kind} SIGKILL": killing(kind) for kind in KINDS},
    **{f"{kind} SIGSTOP": pausing(kind) for kind in KINDS},
    **{f"{kind} SIGKILL at an await": at_a_point(kind, "kill") for kind in KINDS},
    **{f"{kind} SIGSTOP at an await": at_a_point(kind, "pause") for kind in KINDS},
}
AROUND: dict[str, Fault] = {
    "Redis SIGKILL and restart": redis_restart,
    "Redis SIGSTOP": redis_pause,
    "Redis SCRIPT FLUSH": redis_command("SCRIPT", "FLUSH"),
    "Redis CLIENT KILL normal": redis_command("CLIENT", "KILL", "TYPE", "normal"),
    "Redis CLIENT KILL pubsub": redis_command("CLIENT", "KILL", "TYPE", "pubsub"),
    "Redis CLIENT PAUSE": client_pause,
    "Redis maxmemory": redis_full,
    "PostgreSQL stopped": postgres_stop,
    "PostgreSQL SIGKILL": postgres_kill,
    "PostgreSQL SIGSTOP": postgres_pause,
    "network delays": proxy_delay,
    "network cuts": proxy_cut,
    "network swallows replies": proxy_swallow,
}
ROLLING = "rolling restart"
ROLLING_EVERY_S = 5.0


async def cause(scene: Scene, seconds: float, seed: int, calm_s: float = 1.5) -> Counter[str]:
    """Cause faults for *seconds*: one of a tier, one around them, and a rolling restart, all three at a time.

    *calm_s*: the longest pause between two of the same sort. Every kind comes once before one comes twice.
    Returns how many there were of each. When it returns nothing is left broken but what the supervisor mends.
    """
    end = time.monotonic() + seconds
    counted: Counter[str] = Counter()
    turn = asyncio.Lock()  # an orderly end is not to be disturbed by a SIGKILL

    async def in_turns(kinds: dict[str, Fault], rng: random.Random, lock: asyncio.Lock) -> None:
        bag: list[str] = []
        while time.monotonic() < end:
            if not bag:
                bag = rng.sample(sorted(kinds), len(kinds))
            name = bag.pop()
            async with lock:
                scene.timeline.append((time.time(), f"{name} begins"))
                await kinds[name](scene, rng)
                scene.timeline.append((time.time(), f"{name} ends"))
            counted[name] += 1
            await asyncio.sleep(rng.uniform(0.1, calm_s))

    async def rolling(rng: random.Random) -> None:
        while (left := end - time.monotonic()) > ROLLING_EVERY_S:
            await asyncio.sleep(min(left, ROLLING_EVERY_S))
            async with turn:
                await rolling_restart(scene, rng)
            counted[ROLLING] += 1

    rng = random.Random(seed)
    async with asyncio.TaskGroup() as group:
        group.create_task(in_turns(TIERS, random.Random(rng.random()), turn))
        group.create_task(in_turns(AROUND, random.Random(rng.random()), asyncio.Lock()))
        group.create_task(rolling(random.Random(rng.random())))
    return counted
