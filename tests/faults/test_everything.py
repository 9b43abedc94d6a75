"""Faults at random, and faults that may lose messages lawfully: a minute of what `make faults` does for longer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.faults import AROUND, ROLLING, TIERS
from tests.faults.ground import Ground
from tests.faults.runs import FAILOVER, FLUSHALL, losing, mixed
from tests.faults.scene import running_scene
from tests.servers import RedisKind, binary_of
from ticketwire.embedded.redis_server import EmbeddedRedis

pytestmark = pytest.mark.faults

SEED = 1
SECONDS = 25.0
WAIT_FOR_REPLICA_MS = 500  # shorter than a replica is kept away


@pytest.fixture
def pair(own_folder: Path) -> Iterator[tuple[EmbeddedRedis, EmbeddedRedis]]:
    """Two servers, to become master and replica; which is which changes."""
    config = ["repl-diskless-sync-delay 0"]
    binary = binary_of(RedisKind.V8_2)
    with (
        EmbeddedRedis(own_folder / "one", binary=binary, config=config) as one,
        EmbeddedRedis(own_folder / "other", binary=binary, config=config) as other,
    ):
        yield one, other


async def test_no_mixture_of_faults_loses_doubles_or_reorders_anything(ground: Ground) -> None:
    """Tiers killed, paused and restarted, at random and at named awaits; Redis, PostgreSQL and the network likewise."""
    async with running_scene(ground, ingests=2, workers=3, deliveries=2) as scene:
        report = await mixed(scene, SECONDS, SEED)
    assert report.good, report.describe()
    assert report.accepted > 20 * SECONDS, "there was load"
    # Every kind comes once before any comes twice, and there was time for that of most.
    assert len(report.faults.keys() & TIERS.keys()) > len(TIERS) / 2
    assert len(report.faults.keys() & AROUND.keys()) > len(AROUND) / 3
    assert report.faults[ROLLING] >= 2


@pytest.mark.parametrize("how", [FLUSHALL, FAILOVER])
async def test_what_redis_loses_is_missed_by_ingest_and_everything_confirmed_survives(
    ground: Ground, pair: tuple[EmbeddedRedis, EmbeddedRedis], how: str
) -> None:
    """Durability `redis`: first messages that nobody has read are lost, then messages that readers were shown.

    The metric counts all of the former and nothing else; the latter are in PostgreSQL and return to their logs.
    """
    one, other = pair
    mine = Ground(one, ground.postgres, ground.database_url, ground.folder)
    async with running_scene(mine, replica=other, ingests=2) as scene:
        report = await losing(scene, rounds=2, how=how)
    assert report.lost, "or nothing was tested"
    assert report.good, report.describe()


async def test_with_durability_replica_a_failover_loses_nothing(
    ground: Ground, pair: tuple[EmbeddedRedis, EmbeddedRedis]
) -> None:
    """While no replica answers nothing is accepted; what was accepted is on the promoted one."""
    one, other = pair
    mine = Ground(one, ground.postgres, ground.database_url, ground.folder)
    durable = {"TICKETWIRE_DURABILITY": "replica", "TICKETWIRE_DURABILITY_TIMEOUT_MS": str(WAIT_FOR_REPLICA_MS)}
    async with running_scene(mine, replica=other, ingests=2, **durable) as scene:
        report = await losing(scene, rounds=2, how=FAILOVER, lag_s=4 * WAIT_FOR_REPLICA_MS / 1000, durable=True)
    assert report.retries, "there were refusals"
    assert report.lost == 0
    assert report.missed == 0
    assert report.good, report.describe()
