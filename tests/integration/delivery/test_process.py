"""`python -m delivery` as a process: start, readiness, drain, exit."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from delivery.protocol import OTHER_FILES
from tests.until import scaled, until
from ticketwire.embedded.process import free_port


@dataclass(slots=True)
class Running:
    """A node and its metrics' address."""

    process: subprocess.Popen[str]
    port: int
    internal: httpx.Client

    def logged(self) -> list[dict[str, Any]]:
        """End it and return its log."""
        self.process.kill()
        assert self.process.stdout is not None
        return [json.loads(line) for line in self.process.stdout]


@asynccontextmanager
async def running(
    redis_url: str, postgres_url: str, open_files: tuple[int, int] | None = None, **settings: str
) -> AsyncIterator[Running]:
    """A node that is ready; *open_files*: soft and hard limit."""
    port, internal = free_port(), free_port()
    env = {
        **os.environ,
        "TICKETWIRE_REDIS_URL": redis_url, "TICKETWIRE_DATABASE_URL": postgres_url, "TICKETWIRE_AUTH": "off",
        "TICKETWIRE_DRAIN_SECONDS": "10", "DELIVERY_HOST": "127.0.0.1", "DELIVERY_PORT": str(port),
        "DELIVERY_INTERNAL_HOST": "127.0.0.1", "DELIVERY_INTERNAL_PORT": str(internal), **settings,
    }  # fmt: skip
    limit = partial(resource.setrlimit, resource.RLIMIT_NOFILE, open_files) if open_files else None
    process = subprocess.Popen(
        [sys.executable, "-m", "delivery"], env=env, stdout=subprocess.PIPE, text=True, preexec_fn=limit
    )
    with process, httpx.Client(base_url=f"http://127.0.0.1:{internal}") as client:

        def ready() -> bool:
            try:
                return client.get("/readyz").status_code == 200
            except httpx.HTTPError:
                return False

        try:
            await until(ready, timeout_s=20)
            yield Running(process, port, client)
        finally:
            process.kill()


async def test_sigterm_closes_every_socket_and_ends_in_order(redis_url: str, postgres_url: str) -> None:
    """Readiness goes, each socket gets 1012, the process exits with 0 within its deadline."""
    async with running(redis_url, postgres_url, DELIVERY_MAX_SOCKETS="300") as node:
        sockets = [await connect(f"ws://127.0.0.1:{node.port}/?ticket_id={n % 10}") for n in range(200)]
        assert "delivery_rooms 10.0" in node.internal.get("/metrics").text
        node.process.send_signal(signal.SIGTERM)
        codes = await asyncio.wait_for(asyncio.gather(*(end_of(each) for each in sockets)), scaled(10))
        assert codes == [1012] * 200
        assert await asyncio.to_thread(node.process.wait, scaled(10)) == 0
        lines = node.logged()
    assert [line["event"] for line in lines if line["level"] in ("warning", "error", "critical")] == []


async def test_a_node_that_may_open_few_files_refuses_in_time(redis_url: str, postgres_url: str) -> None:
    """With 503, which a client understands, not by running out of them; a low soft limit alone is raised."""
    async with running(redis_url, postgres_url, (60, 300), DELIVERY_MAX_SOCKETS="100") as node:
        sockets = [await connect(f"ws://127.0.0.1:{node.port}/?ticket_id=1") for _ in range(300 - OTHER_FILES)]
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://127.0.0.1:{node.port}/?ticket_id=1")
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["Retry-After"] == "5"
        await sockets.pop().close()

        async def is_taken() -> bool:
            try:
                return bool(await connect(f"ws://127.0.0.1:{node.port}/?ticket_id=1"))
            except InvalidStatus:  # the node has not noticed yet that a socket went
                return False

        await until(is_taken)
        (warning,) = [line for line in node.logged() if line["level"] == "warning"]
    assert (warning["sockets"], warning["set"], warning["open_files_allowed"]) == (300 - OTHER_FILES, 100, 300)


async def end_of(socket: object) -> int:
    with pytest.raises(ConnectionClosed) as end:
        await socket.recv()  # type: ignore[attr-defined]
    assert end.value.rcvd is not None
    return int(end.value.rcvd.code)


def test_a_wrong_setting_stops_the_start_with_one_line() -> None:
    """It names the variable, the value and what is allowed."""
    env = {"PATH": os.environ["PATH"], "DELIVERY_PORT": "eighty"}
    done = subprocess.run([sys.executable, "-m", "delivery"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "DELIVERY_PORT is 'eighty'" in line
    assert "TICKETWIRE_REDIS_URL is not set" in line
