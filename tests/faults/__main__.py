"""`make faults [SECONDS=600] [SEED=1]`: cause faults for a while, and say what became of every message."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from tests.faults.ground import Ground
from tests.faults.runs import FAILOVER, FLUSHALL, Report, losing, mixed, singles
from tests.faults.scene import running_scene
from tests.servers import RedisKind, binary_of
from ticketwire.archive.migrate import upgrade_async
from ticketwire.embedded.postgres_server import EmbeddedPostgres
from ticketwire.embedded.redis_server import EmbeddedRedis

FEWEST_SECONDS = 30


@asynccontextmanager
async def new_ground(keep: Path) -> AsyncIterator[tuple[Ground, EmbeddedRedis]]:
    """Servers of one run alone, and a second Redis for a replica. What went wrong is kept in the folder *keep*."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ticketwire-faults-")))
        folder.chmod(0o755)  # PostgreSQL's account must get through
        binary = binary_of(RedisKind.V8_2)
        config = ["repl-diskless-sync-delay 0"]
        redis = stack.enter_context(EmbeddedRedis(folder / "redis", binary=binary, config=config))
        other = stack.enter_context(EmbeddedRedis(folder / "replica", binary=binary, config=config))
        postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres", options=("shared_buffers=32MB",)))
        await upgrade_async(postgres.url)
        yield Ground(redis, postgres, postgres.url, folder), other
        if (folder / "findings.json").exists():
            kept = keep / folder.name
            shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("data"))
            print(f"   everything recorded of this phase is in {kept}")


async def run(seconds: float, seed: int, keep: Path) -> list[Report]:
    """All phases, each on servers of its own."""
    reports = []
    long = seconds >= 300
    async with new_ground(keep) as (ground, _), running_scene(ground, ingests=2, workers=3, deliveries=2) as scene:
        reports.append(_told(await singles(scene, rounds=5 if long else 2, outage_s=10.0)))
    async with new_ground(keep) as (ground, _), running_scene(ground, ingests=2, workers=3, deliveries=2) as scene:
        reports.append(_told(await mixed(scene, seconds, seed)))
    rounds = 6 if long else 2
    for how in (FLUSHALL, FAILOVER):
        async with new_ground(keep) as (ground, other), running_scene(ground, replica=other, ingests=2) as scene:
            report = await losing(scene, rounds, how)
        report.name += ", durability redis"
        reports.append(_told(report))
    durable = {"TICKETWIRE_DURABILITY": "replica", "TICKETWIRE_DURABILITY_TIMEOUT_MS": "500"}
    async with new_ground(keep) as (ground, other), running_scene(ground, replica=other, ingests=2, **durable) as scene:
        report = await losing(scene, rounds, FAILOVER, durable=True)
    report.name += ", durability replica"
    reports.append(_told(report))
    return reports


def _told(report: Report) -> Report:
    """Print one phase's result."""
    print(f"\n== {report.name} ({report.seconds:.0f} s)")
    print(
        f"   accepted {report.accepted:,} messages ({report.retries:,} tries again), archived {report.archived:,}, "
        f"dead {report.dead}, reconnects {report.reconnects:,}"
    )
    counts = report.findings.counts()
    print("   " + ", ".join(f"{kind.replace('_', ' ')} {count}" for kind, count in counts.items()))
    print(f"   longest wait from accept to confirm: {report.longest_stall_s:.2f} s")
    for name, stall in report.stalls.items():
        print(f"   longest wait after {name}: {stall:.2f} s")
    if report.lost or report.missed or report.second_ids:
        print(
            f"   lost by Redis {report.lost}, of these missed by ingest {report.missed}; "
            f"told a second id, as Redis lost its idempotency keys {report.second_ids}"
        )
    for name, count in sorted(report.faults.items()):
        print(f"   {count:4d} {name}")
    if not report.good:
        print("   NOT GOOD:\n" + report.describe())
    sys.stdout.flush()
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="of the mixed phase (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=1, help="of the schedule (default: %(default)s)")
    parser.add_argument(
        "--keep", type=Path, default=Path(".faults"), help="where to keep what was recorded of a phase that went wrong"
    )
    given = parser.parse_args()
    if given.seconds < FEWEST_SECONDS:
        parser.error(f"--seconds is {given.seconds:g}, allowed: {FEWEST_SECONDS} and more")
    reports = asyncio.run(run(given.seconds, given.seed, given.keep))
    mixed_one = reports[1]
    faults = sum(sum(report.faults.values()) for report in reports)
    counts = mixed_one.findings.counts()
    print(
        f"\nseed {given.seed}: {sum(report.accepted for report in reports):,} messages, {faults:,} faults; lost "
        f"{counts['lost']}, archive duplicates {counts['archive_duplicates']}, reordered {counts['reordered']}, "
        f"gaps {counts['gaps']}: {'good' if all(report.good for report in reports) else 'NOT GOOD'}"
    )
    return 0 if all(report.good for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
