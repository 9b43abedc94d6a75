"""Fan-out, saturation, small rooms, idle memory, mass resume and coalescing, beside what others do, in one run.

    python -m bench.delivery [--only fan1000,rooms] [--rounds 3] [--seconds 6] [--peers floor-send,ticketwire-v1]

Every round measures everybody in turn, each on fresh servers; the tables have the medians and, in brackets, the lowest
and highest. One generator (bench/peers/loadgen) plays the same load to all and checks that every socket got each
message once. Whoever cannot be started here is left out, and it is said how to get it.

CPU is user and system time. How messages get in: by HTTP POST to floor-send, nchan, Socket.IO and Centrifugo;
for ticketwire by the worker's confirm.lua, one call at a time for each partition, with all messages that wait.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.delivery import build
from bench.delivery.build import Missing
from bench.delivery.peers import PEERS, Ground, Peer
from bench.delivery.scenarios import SCENARIOS, Result, Scenario, with_totals, wrong
from bench.delivery.table import NOT_ASKED, number, report
from ticketwire.embedded.postgres_server import EmbeddedPostgres

SOCKETS = 12_000  # descriptors that the generator and a server need at least
LONGEST_S = 120.0  # of one run
INVALID = "invalid"


def main(given: argparse.Namespace) -> int:
    allow_descriptors()
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in given.only]
    try:
        generator = build.generator()
    except Missing as exc:
        print(f"nothing can be measured without the load generator. {exc}")
        return 1
    absent = look(scenarios, given.peers)
    results: dict[tuple[str, str], list[Result]] = {}
    reasons = {(s.name, peer): absent[peer] for s in scenarios for peer in s.peers if peer in absent}
    with ground() as shared:
        for round_ in range(given.rounds):
            for scenario in scenarios:
                for name in scenario.peers:
                    if name in absent or (given.peers and name not in given.peers):
                        continue
                    with alone():
                        outcome = measure(generator, shared, scenario, PEERS[name], given.seconds, round_)
                    if isinstance(outcome, str):
                        reasons[scenario.name, name] = f"{INVALID}: {outcome}"
                    else:
                        results.setdefault((scenario.name, name), []).append(outcome)
    print(f"\nMedians of {given.rounds} rounds.")
    print(report(results, reasons, [scenario.name for scenario in scenarios]))
    bad = [f"{scenario}, {name}: {why}" for (scenario, name), why in reasons.items() if why.startswith(INVALID)]
    for line in bad:
        print(f"\n{line}")
    return 1 if bad else 0


def allow_descriptors() -> None:
    """Raise this process's limit, and so its children's. Exits when too few are allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < SOCKETS:
        sys.exit(f"open files: {hard} are allowed, {SOCKETS} are needed (ulimit -n)")
    if soft != resource.RLIM_INFINITY and soft < SOCKETS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (SOCKETS, hard))


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One measurement at a time on a machine: two would measure each other."""
    with open(Path(tempfile.gettempdir(), "bench.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def look(scenarios: Sequence[Scenario], wanted: Sequence[str]) -> dict[str, str]:
    """Build what the peers need; return who is absent, and why."""
    absent: dict[str, str] = {}
    for name in dict.fromkeys(peer for scenario in scenarios for peer in scenario.peers):
        if wanted and name not in wanted:
            absent[name] = NOT_ASKED
            continue
        try:
            PEERS[name].prepare()
        except Missing as exc:
            absent[name] = str(exc)
            print(f"without {name}: {exc}", flush=True)
    return absent


@contextlib.contextmanager
def ground() -> Iterator[Ground]:
    with (
        tempfile.TemporaryDirectory(prefix="ticketwire-bench-", ignore_cleanup_errors=True) as folder,
        EmbeddedPostgres(Path(folder, "postgres"), options=("fsync=off",)) as postgres,
    ):
        # nginx's worker is another user where root starts it
        Path(folder).chmod(0o755)
        settings = {"DATABASE_URL": postgres.url, "REDIS_URL": "redis://unused", "AUTH": "off"}
        env = {**os.environ, **{f"TICKETWIRE_{name}": value for name, value in settings.items()}}
        subprocess.run([sys.executable, "-m", "ticketwire.cli", "migrate"], env=env, check=True, capture_output=True)
        yield Ground(Path(folder), postgres)


def measure(
    generator: Path, shared: Ground, scenario: Scenario, peer: Peer, seconds: float, round_: int
) -> Result | str:
    """Start *peer*, play the load, stop it; return what was measured or why that is not valid."""
    folder = shared.folder / f"{scenario.name}-{peer.name.replace(' ', '-')}-{round_}"
    folder.mkdir()
    with peer.start(shared, folder) as started:
        pids = ",".join(f"{name}={pid}" for name, pids in started.pids.items() for pid in pids)
        command = [str(generator), *started.arguments, *scenario.arguments]
        command += [f"-processes={pids}", f"-seconds={seconds}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S, check=False)
        except subprocess.TimeoutExpired:
            return f"the generator did not end within {LONGEST_S:g} s"
    if done.returncode:
        print(f"{scenario.name:12} {peer.name:24} failed: {done.stderr.strip()[-500:]}", flush=True)
        return done.stderr.strip()[-200:].replace("\n", " ")
    result: Result = with_totals(json.loads(done.stdout))
    told = "  ".join(f"{key} {number(result[key])}" for key in scenario.columns if key in result)
    fault = wrong(result)
    print(f"{scenario.name:12} {peer.name:24} {told}{'  INVALID: ' + fault if fault else ''}", flush=True)
    return fault or result


def names(allowed: Sequence[str], given: str) -> list[str]:
    chosen = given.split(",")
    for name in chosen:
        if name not in allowed:
            raise argparse.ArgumentTypeError(f"{name!r}, allowed: {', '.join(allowed)}")
    return chosen


if __name__ == "__main__":
    every = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda given: names(every, given), default=every, help=", ".join(every))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="measured in each run, after 2 s that do not count")
    parser.add_argument(
        "--peers", type=lambda given: names(list(PEERS), given), default=[], help=f"all, or some of {', '.join(PEERS)}"
    )
    sys.exit(main(parser.parse_args()))
