"""`ticketwire dev`: one command runs everything, and leaves nothing running."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.until import scaled, until_now

pytestmark = pytest.mark.faults

PORTS = ("ingest", "admin", "delivery", "ingest-internal", "delivery-internal", "worker-internal")


def runs(pid: int) -> bool:
    """Whether a process lives; a zombie that nobody collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Dev:
    """A running `ticketwire dev` and what it says of itself."""

    def __init__(self, folder: Path, *words: str, **env: str) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.output = folder / "output"
        ours = ("TICKETWIRE_", "INGEST_", "WORKER_", "DELIVERY_")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ticketwire.cli", "dev", "--data-dir", str(folder)]
                + [word for port in PORTS for word in (f"--{port}-port", "0")]
                + list(words),
                env={**clean, **env},
                stdout=output,
                stderr=output,
                cwd="/",
            )

    def state(self) -> dict[str, Any]:
        """What dev.json says, as soon as it is there."""

        def read() -> dict[str, Any]:
            assert self.process.poll() is None, self.output.read_text()
            try:
                found: dict[str, Any] = json.loads((self.folder / "dev.json").read_text())
            except FileNotFoundError:
                return {}
            return found if found["pid"] == self.process.pid else {}  # one that was killed left its own

        return until_now(read, timeout_s=60)

    def pids(self) -> dict[str, list[int]]:
        pids: dict[str, list[int]] = self.state()["pids"]
        return pids

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(scaled(30))


@contextmanager
def running(folder: Path, *words: str, **env: str) -> Iterator[Dev]:
    dev = Dev(folder, *words, **env)
    try:
        yield dev
    finally:
        if dev.process.poll() is None:
            dev.process.kill()
            dev.process.wait()


def all_pids(pids: dict[str, list[int]]) -> list[int]:
    return [pid for group in pids.values() for pid in group]


def send(state: dict[str, Any], text: str) -> str:
    answer = httpx.post(
        f"{state['urls']['ingest']}/chat/send", data={"ticket_id": "12345", "sender_id": "1", "message": text}
    )
    assert answer.status_code == 200, answer.text
    message_id: str = answer.json()["message_id"]
    return message_id


def test_everything_starts_is_told_and_ends(own_folder: Path) -> None:
    """dev.json names what runs; SIGTERM ends all of it in order, and the next start finds the data."""
    with running(own_folder / "data", "--workers", "2") as dev:
        state = dev.state()
        pids = state["pids"]
        assert {tier: len(group) for tier, group in pids.items()} == {
            "ingest": 1,
            "worker": 2,
            "delivery": 1,
            "redis": 1,
            "postgres": 1,
        }
        assert all(runs(pid) for pid in all_pids(pids))
        ports = state["ports"]
        for port in (ports["ingest_internal"], ports["delivery_internal"], *ports["worker_internal"]):
            assert httpx.get(f"http://127.0.0.1:{port}/readyz").json()["ready"] is True
            assert httpx.get(f"http://127.0.0.1:{port}/livez").status_code == 200
            assert "loop_lag_seconds" in httpx.get(f"http://127.0.0.1:{port}/metrics").text
        message_id = send(state, "Hello")
        page = httpx.get(f"{state['urls']['delivery']}/config.json").json()
        assert page["ingest_url"] == f"http://localhost:{ports['ingest']}"
        asked = {"Origin": f"http://localhost:{ports['delivery']}", "Access-Control-Request-Method": "POST"}
        allowed = httpx.options(f"{page['ingest_url']}/chat/send", headers=asked)
        assert allowed.headers["access-control-allow-origin"] == asked["Origin"]
        told = dev.output.read_text()
        assert f"curl -X POST http://localhost:{ports['ingest']}/chat/send -d ticket_id=12345" in told
        assert f"redis-cli -u {state['redis_url']} XREAD COUNT 10 STREAMS chat:12345 0" in told
        assert dev.stop() == 0
        assert not any(runs(pid) for pid in all_pids(pids))
        assert not (dev.folder / "dev.json").exists()
    with running(own_folder / "data") as dev:
        state = dev.state()

        def history() -> list[str]:
            answer = httpx.get(f"{state['urls']['delivery']}/tickets/12345/messages").json()
            return [message["message_id"] for message in answer["messages"]]

        until_now(lambda: history() == [message_id])
        assert dev.stop(signal.SIGINT) == 0


@pytest.mark.parametrize("tier", ["ingest", "worker", "delivery", "redis", "postgres"])
def test_what_dies_is_started_again(own_folder: Path, tier: str) -> None:
    """After a second, by another process that dev.json names, and messages are accepted as before."""
    with running(own_folder / "data") as dev:
        state = dev.state()
        (before,) = state["pids"][tier]
        others = {name: group for name, group in state["pids"].items() if name != tier}
        os.kill(before, signal.SIGKILL)
        (after,) = until_now(lambda: [pid for pid in dev.pids()[tier] if pid != before], timeout_s=30)
        assert runs(after)
        assert {name: group for name, group in dev.pids().items() if name != tier} == others

        def accepted() -> bool:
            try:
                return bool(send(state, "again"))
            except (httpx.HTTPError, AssertionError):
                return False

        until_now(accepted, timeout_s=30, every_s=0.1)
        assert dev.stop() == 0
        assert not runs(after)


def test_a_killed_dev_leaves_nothing_running(own_folder: Path) -> None:
    """The kernel tells its children; the next start uses the same data."""
    with running(own_folder / "data") as dev:
        pids = all_pids(dev.pids())
        dev.process.kill()
        dev.process.wait()
        until_now(lambda: not any(runs(pid) for pid in pids), timeout_s=30)
    with running(own_folder / "data") as dev:
        assert set(all_pids(dev.pids())).isdisjoint(pids)
        assert dev.stop() == 0


def test_a_tier_that_does_not_drain_is_killed(own_folder: Path) -> None:
    """A second Ctrl-C does not wait for the deadline."""
    with running(own_folder / "data", TICKETWIRE_DRAIN_SECONDS="300") as dev:
        pids = dev.pids()
        os.kill(pids["worker"][0], signal.SIGSTOP)
        dev.process.send_signal(signal.SIGINT)
        until_now(lambda: not runs(pids["ingest"][0]), timeout_s=30)
        assert dev.stop(signal.SIGINT) == 0
        assert not any(runs(pid) for pid in all_pids(pids))


def test_a_second_one_is_kept_out_of_the_same_folder(own_folder: Path) -> None:
    """Two servers on one folder would destroy it; the first goes on undisturbed."""
    with running(own_folder / "data") as first:
        pids = first.pids()
        with running(own_folder / "data") as second:
            assert second.process.wait(scaled(30)) == 2
        line = first.output.read_text().splitlines()[-1]
        assert line == (
            f"ticketwire dev: another `ticketwire dev` (process {first.process.pid}) uses {own_folder}/data: "
            "choose another with --data-dir"
        )
        assert first.pids() == pids
        assert first.stop() == 0


def test_a_taken_port_ends_the_start_with_one_line(own_folder: Path) -> None:
    """It names the port and the option, and nothing was started."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with running(own_folder / "data", "--ingest-port", str(port)) as dev:
            assert dev.process.wait(scaled(30)) == 2
            (line,) = dev.output.read_text().splitlines()
    assert f"port {port} of 127.0.0.1" in line
    assert "--ingest-port" in line


def test_a_wrong_setting_ends_the_start_with_one_line(own_folder: Path) -> None:
    """Before Redis and PostgreSQL are made."""
    with running(own_folder / "data", TICKETWIRE_PARTITIONS="0") as dev:
        assert dev.process.wait(scaled(30)) == 2
        (line,) = dev.output.read_text().splitlines()
    assert line.startswith("ticketwire dev: TICKETWIRE_PARTITIONS is '0': ")


def test_a_tiers_own_wrong_setting_ends_the_start(own_folder: Path) -> None:
    """Not sixty seconds of restarts; Redis and PostgreSQL are stopped again."""
    with running(own_folder / "data", WORKER_BATCH="0") as dev:
        assert dev.process.wait(scaled(60)) == 2
        told = dev.output.read_text()
        assert "WORKER_BATCH is '0'" in told
        assert "worker-1 refuses its settings" in told
        assert not (dev.folder / "postgres" / "data" / "postmaster.pid").exists()


def test_a_start_that_fails_halfway_leaves_nothing(own_folder: Path) -> None:
    """PostgreSQL cannot start here, so the Redis beside it must not stay."""
    data = own_folder / "data" / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("12\n")
    with running(own_folder / "data") as dev:
        assert dev.process.wait(scaled(30)) == 2
        assert "no PostgreSQL 12" in dev.output.read_text()
    (data / "PG_VERSION").write_text("18\n")  # no cluster behind it: PostgreSQL itself refuses
    with running(own_folder / "data") as dev:
        assert dev.process.wait(scaled(30)) == 1
        assert "postgres ended while starting" in dev.output.read_text()
        log = (dev.folder / "redis" / "redis.log").read_text()
    assert "ready to exit" in log


def test_a_stop_during_the_start_is_obeyed(own_folder: Path) -> None:
    """Ctrl-C does not wait until everything is up."""
    with running(own_folder / "data") as dev:
        until_now(lambda: (dev.folder / "postgres" / "data").exists())
        assert dev.stop(signal.SIGINT) == 0
    assert not (dev.folder / "postgres" / "data" / "postmaster.pid").exists()


def test_a_folder_that_cannot_be_used_is_told_in_one_line(own_folder: Path) -> None:
    """No traceback for a slip of the keyboard."""
    (own_folder / "file").write_text("")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ticketwire.cli", "dev", "--data-dir", str(own_folder / "file" / "data")]
        + [word for port in PORTS for word in (f"--{port}-port", "0")],
        capture_output=True,
        text=True,
        timeout=scaled(30),
        check=False,
    )
    assert done.returncode == 2
    assert (
        done.stderr
        == f"ticketwire dev: --data-dir is '{own_folder}/file/data', which cannot be used: Not a directory\n"
    )
