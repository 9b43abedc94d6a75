"""`python -m ingest` as a process: starts, drains, and says in one line why it does not start."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from redis.asyncio import Redis

from schemas import keys as names
from tests.integration.ingest.harness import KEYS, NOWHERE
from tests.until import scaled, until
from ticketwire.embedded.redis_server import EmbeddedRedis

ROOT = Path(__file__).parents[3]


@asynccontextmanager
async def process(redis_url: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The tier on free ports, killed at the end if it still runs."""
    given = {
        "TICKETWIRE_REDIS_URL": redis_url,
        "TICKETWIRE_DATABASE_URL": NOWHERE,
        "TICKETWIRE_AUTH": "off",
        "TICKETWIRE_DRAIN_SECONDS": str(scaled(10)),
        "INGEST_HOST": "127.0.0.1",
        "INGEST_PORT": "0",
        "INGEST_INTERNAL_HOST": "127.0.0.1",
        "INGEST_INTERNAL_PORT": "0",
        **environment,
    }
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ingest",
        cwd=ROOT, env={**os.environ, **given}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


async def ports(started: asyncio.subprocess.Process) -> tuple[str, str]:
    """The public and the internal address, from its log."""
    assert started.stdout is not None
    async with asyncio.timeout(scaled(20)):
        while line := await started.stdout.readline():
            told = json.loads(line)
            if told["event"] == "serving":
                return f"http://127.0.0.1:{told['port']}", f"http://127.0.0.1:{told['internal_port']}"
    raise AssertionError("it ended without serving")


async def test_it_serves_and_tells_how_it_is(redis_url: str) -> None:
    """Messages on the public port; liveness, readiness and metrics on the internal one, and nowhere else."""
    async with process(redis_url) as started, httpx.AsyncClient() as client:
        public, internal = await ports(started)
        sent = await client.post(f"{public}/chat/send", data={"ticket_id": "1", "sender_id": "1", "message": "x"})
        assert sent.status_code == 200
        assert (await client.get(f"{internal}/livez")).status_code == 200
        assert (await client.get(f"{internal}/readyz")).status_code == 200
        metrics = (await client.get(f"{internal}/metrics")).text
        assert "ingest_accepted_total 1.0" in metrics
        assert "ingest_request_seconds_count 1.0" in metrics
        for path in ("livez", "readyz", "metrics"):
            assert (await client.get(f"{public}/{path}")).status_code == 404


async def test_sigterm_lets_requests_finish(own_redis: EmbeddedRedis) -> None:
    """A request that waits for a stalled Redis is answered 200 after SIGTERM, then the process ends with 0."""
    assert own_redis.process is not None
    async with process(own_redis.url) as started, httpx.AsyncClient(timeout=scaled(30)) as client:
        public, internal = await ports(started)
        own_redis.process.send_signal(signal.SIGSTOP)
        fields = {"ticket_id": "1", "sender_id": "1", "message": "x"}
        waiting = asyncio.create_task(client.post(f"{public}/chat/send", data=fields))

        await until(lambda: _shows(client, internal, "ingest_group_messages_count 1.0"))  # its call is under way
        started.send_signal(signal.SIGTERM)
        await until(lambda: _draining(client, internal))
        own_redis.process.send_signal(signal.SIGCONT)
        assert (await waiting).status_code == 200
        assert await started.wait() == 0
    async with Redis.from_url(own_redis.url) as redis:
        assert await redis.xlen(KEYS.ingest(KEYS.partition_of("1"))) == 1


async def _shows(client: httpx.AsyncClient, internal: str, line: str) -> bool:
    return line in (await client.get(f"{internal}/metrics")).text


async def _draining(client: httpx.AsyncClient, internal: str) -> bool:
    return bool((await client.get(f"{internal}/readyz")).json()["draining"])


async def test_another_number_of_partitions_stops_the_start(redis_url: str) -> None:
    """One line that names both numbers: with the wrong one, messages would lie where no worker looks."""
    async with Redis.from_url(redis_url) as redis:
        await redis.hset(names.META, "partitions", "8")
    async with process(redis_url) as started:
        _, stderr = await asyncio.wait_for(started.communicate(), scaled(20))
        assert started.returncode == 2
        assert stderr.decode().splitlines() == [
            "ticketwire ingest: TICKETWIRE_PARTITIONS is 16, but this Redis was started with 8: "
            "the number is fixed at first start"
        ]


async def test_another_deployments_redis_ends_a_running_tier(own_redis: EmbeddedRedis) -> None:
    """Found at the first look after an outage: better to stop than to store where nobody reads."""
    own_redis.stop()
    async with process(own_redis.url) as started:
        await ports(started)
        own_redis.launch()
        await asyncio.to_thread(own_redis.wait_ready)
        async with Redis.from_url(own_redis.url) as redis:
            agreed = await until(lambda: redis.hget(names.META, "partitions"))
            assert int(agreed) == 16
            own_redis.stop()
        own_redis.launch()
        await asyncio.to_thread(own_redis.wait_ready)
        async with Redis.from_url(own_redis.url) as redis:
            await redis.hset(names.META, "partitions", "8")
            own_redis.stop()
        own_redis.launch()
        _, stderr = await asyncio.wait_for(started.communicate(), scaled(30))
        assert started.returncode == 2
        assert "this Redis was started with 8" in stderr.decode()


async def test_a_wrong_setting_is_one_line(redis_url: str) -> None:
    """It names the variable, what was found and what is allowed."""
    async with process(redis_url, INGEST_MAX_BODY_BYTES="10") as started:
        _, stderr = await asyncio.wait_for(started.communicate(), scaled(20))
        assert started.returncode == 2
        (line,) = stderr.decode().splitlines()
        assert "INGEST_MAX_BODY_BYTES is '10'" in line
