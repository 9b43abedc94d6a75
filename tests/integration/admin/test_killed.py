"""A replay whose process is killed in the middle is finished by the next, and each letter is sent once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import httpx

from tests.integration.admin.harness import KEY, Api, Core, letter_of
from tests.until import scaled, until
from ticketwire.embedded.process import free_port
from workers.settings import WorkerSettings


async def test_a_killed_replay_can_be_started_again(core: Core, settings: WorkerSettings, api: Api) -> None:
    """SIGKILL to a whole ingest process while it sends a hundred letters a second."""
    originals = [await letter_of(core[0], "T1", f"m{n}") for n in range(400)]
    port = free_port()
    own = {"HOST": "127.0.0.1", "PORT": "0", "ADMIN_HOST": "127.0.0.1", "ADMIN_PORT": str(port), "ADMIN_KEY": KEY}
    own |= {"INTERNAL_HOST": "127.0.0.1", "INTERNAL_PORT": "0"}
    shared = {
        "REDIS_URL": settings.shared.redis_url.get_secret_value(),
        "DATABASE_URL": settings.shared.database_url.get_secret_value(),
        "PARTITIONS": "4",
        "AUTH": "off",
    }
    environment = {f"INGEST_{name}": value for name, value in own.items()}
    environment |= {f"TICKETWIRE_{name}": value for name, value in shared.items()}
    process = subprocess.Popen([sys.executable, "-m", "ingest"], env={**os.environ, **environment})
    try:
        client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {KEY}"}, timeout=scaled(10)
        )
        async with client:

            async def answers() -> bool:
                try:
                    return (await client.get("/admin/scale")).status_code == 200
                except httpx.TransportError:
                    return False

            await until(answers, timeout_s=20, every_s=0.05)
            body = {"filter": {}, "rate": 100, "why": "x"}
            answer = await client.post("/admin/dead-letters/replay", json=body)
            assert answer.status_code == 202
            left = len(await api.letters())
            assert 0 < left < 400
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    job = await api.done(await api.post("dead-letters/replay", filter={}, why="again"))
    assert job["outcomes"]["sent"] == job["total"] <= left
    stream = core[0].keys.ingest(core[0].keys.partition_of("T1"))
    entries = await core[0].command(stream, "XRANGE", stream, "-", "+")
    assert [dict(zip(f[::2], f[1::2], strict=True))["original_id"] for _, f in entries] == originals
    partition = core[0].keys.partition_of("T1")
    assert await core[1].database.fetch("SELECT 1 FROM dead_letters WHERE replayed_as IS NULL") == []
    assert await core[0].command(stream, "HLEN", core[0].keys.replayed(partition)) == 0
