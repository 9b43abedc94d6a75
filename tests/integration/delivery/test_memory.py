"""A node over its memory mark: newcomers are sent elsewhere, whoever is here goes on, and the door opens again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.integration.delivery.harness import Worker
from tests.until import scaled, until
from ticketwire.archive.messages import open_archive
from ticketwire.bus.bus import open_bus
from ticketwire.embedded.process import free_port
from ticketwire.settings import SharedSettings

MIB = 2**20
HEADROOM = 24 * MIB
BACKLOG = 64 * MIB  # what one client that reads nothing may make the node keep


class Process:
    """A delivery node of its own, and what its internal port says."""

    def __init__(self, pid: int, port: int, internal: httpx.AsyncClient) -> None:
        self.pid = pid
        self.address = f"127.0.0.1:{port}"
        self.internal = internal

    @property
    def resident(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    async def reason(self) -> str | None:
        """Why it is not ready for its memory; empty: it is; None: it does not answer yet."""
        try:
            report = (await self.internal.get("/readyz")).json()
        except httpx.HTTPError:
            return None
        checks = {check["name"]: check for check in report["checks"]}
        return checks["memory"]["reason"] if "memory" in checks else None

    async def ready(self) -> bool:
        try:
            return (await self.internal.get("/readyz")).status_code == 200
        except httpx.HTTPError:
            return False


@asynccontextmanager
async def node(redis_url: str, postgres_url: str, limit: str) -> AsyncIterator[Process]:
    port, internal = free_port(), free_port()
    env = {
        **os.environ,
        "TICKETWIRE_REDIS_URL": redis_url, "TICKETWIRE_DATABASE_URL": postgres_url, "TICKETWIRE_AUTH": "off",
        "TICKETWIRE_DRAIN_SECONDS": "2", "DELIVERY_HOST": "127.0.0.1", "DELIVERY_PORT": str(port),
        "DELIVERY_INTERNAL_HOST": "127.0.0.1", "DELIVERY_INTERNAL_PORT": str(internal),
        "DELIVERY_SEND_BUFFER_BYTES": str(BACKLOG), "DELIVERY_MEMORY_LIMIT": limit,
    }  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "delivery"], env=env, stdout=subprocess.DEVNULL)
    with process:
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{internal}") as client:
                yield Process(process.pid, port, client)
        finally:
            process.terminate()
            process.wait(scaled(20))


async def test_over_its_mark_a_node_takes_nobody_new_and_opens_again(redis_url: str, postgres_url: str) -> None:
    """One client that reads nothing fills the memory. Its neighbour gets every message; new sockets, streams and long
    polls get 503 with Retry-After; readiness and metrics say why; when the client is gone, all is as before."""
    async with node(redis_url, postgres_url, "0") as unlimited:
        await until(unlimited.ready, timeout_s=20)
        async with connect(f"ws://{unlimited.address}/?ticket_id=7"):
            usual = unlimited.resident
    shared = SharedSettings.model_validate({"redis_url": redis_url, "database_url": postgres_url, "auth": "off"})
    mark = usual + HEADROOM
    async with (
        open_bus(shared) as bus,
        open_archive(postgres_url) as archive,
        node(redis_url, postgres_url, str(mark)) as limited,
    ):
        await bus.check()
        await until(limited.ready, timeout_s=20)
        worker = Worker(bus, archive, shared)
        url = f"ws://{limited.address}/?ticket_id=7"
        async with connect(url, max_queue=None) as neighbour:
            stalled = await connect(url, max_queue=1)
            stalled.transport.pause_reading()
            sent = 0
            while limited.resident < mark + 4 * MIB:
                await worker.confirm([worker.make("7", "x" * 8_000) for _ in range(200)], archived=False)
                sent += 200
                for _ in range(200):
                    await neighbour.recv()
            reason = await until(limited.reason)
            assert f"{mark >> 20} MiB allowed" in reason
            await refused(limited)
            await worker.confirm([worker.make("7", "still here")], archived=False)
            assert "still here" in str(await neighbour.recv())
            text = (await limited.internal.get("/metrics")).text
            values = {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if not line.startswith("#")}
            assert values["delivery_memory_bytes"] > values["delivery_memory_mark_bytes"] == mark
            assert values['delivery_refused_total{status="503"}'] >= 2
            stalled.transport.abort()
            await until(limited.ready)
            assert await limited.reason() == ""
            async with connect(url) as newcomer:
                await worker.confirm([worker.make("7", "welcome")], archived=False)
                assert "welcome" in str(await newcomer.recv())
                assert "welcome" in str(await neighbour.recv())


async def refused(limited: Process) -> None:
    for options in ({}, {"subprotocols": ["ticketwire.v1"]}):
        with pytest.raises(InvalidStatus) as handshake:
            async with connect(f"ws://{limited.address}/?ticket_id=7", **options):  # type: ignore[arg-type]
                pass
        response = handshake.value.response
        assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
        assert b"MiB of memory" in (response.body or b"")
    async with httpx.AsyncClient(base_url=f"http://{limited.address}") as http:
        for path in ("/sse/7", "/tickets/7/messages?after=0-0&wait=5"):
            answer = await http.get(path)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        # What costs nothing to keep is answered all the same.
        assert (await http.get("/tickets/7/messages")).status_code == 200
