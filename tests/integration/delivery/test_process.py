"""`python -m delivery` as a process: start, readiness, drain, exit."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.until import scaled, until
from ticketwire.embedded.process import free_port


async def test_sigterm_closes_every_socket_and_ends_in_order(redis_url: str, postgres_url: str) -> None:
    """Readiness goes, each socket gets 1012, the process exits with 0 within its deadline."""
    port, internal = free_port(), free_port()
    env = {
        **os.environ,
        "TICKETWIRE_REDIS_URL": redis_url, "TICKETWIRE_DATABASE_URL": postgres_url, "TICKETWIRE_AUTH": "off",
        "TICKETWIRE_DRAIN_SECONDS": "10", "DELIVERY_HOST": "127.0.0.1", "DELIVERY_PORT": str(port),
        "DELIVERY_INTERNAL_HOST": "127.0.0.1", "DELIVERY_INTERNAL_PORT": str(internal),
    }  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "delivery"], env=env, stdout=subprocess.PIPE, text=True)
    with process, httpx.Client(base_url=f"http://127.0.0.1:{internal}") as client:

        def ready() -> bool:
            try:
                return client.get("/readyz").status_code == 200
            except httpx.HTTPError:
                return False

        try:
            await until(ready, timeout_s=20)
            sockets = [await connect(f"ws://127.0.0.1:{port}/?ticket_id={n % 10}") for n in range(200)]
            metrics = client.get("/metrics").text
            assert "delivery_rooms 10.0" in metrics
            process.send_signal(signal.SIGTERM)
            codes = await asyncio.wait_for(asyncio.gather(*(end_of(each) for each in sockets)), scaled(10))
            assert codes == [1012] * 200
            assert await asyncio.to_thread(process.wait, scaled(10)) == 0
        finally:
            process.kill()
        assert process.stdout is not None
        lines = [json.loads(line) for line in process.stdout]
    assert [line["event"] for line in lines if line["level"] in ("warning", "error", "critical")] == []


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
