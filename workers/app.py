"""Put a worker together and run it until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from ticketwire.archive.messages import Archive, open_archive
from ticketwire.archive.reviews import Reviews
from ticketwire.bus.bus import Bus, open_bus
from ticketwire.bus.partition import Lease, Partition
from ticketwire.errors import Unavailable
from ticketwire.lifecycle import Lifecycle, settle_gc
from ticketwire.telemetry.exposition import serve_internal
from ticketwire.telemetry.health import Health
from workers.fleet import Fleet
from workers.moderation.allow_all import AllowAll
from workers.moderation.service import open_moderation
from workers.moderation.verdict import Moderator
from workers.owner import Owner
from workers.pipeline import Pipeline
from workers.settings import WorkerSettings

log = logging.getLogger(__name__)

REPORT_EVERY_S = 0.5  # how late readiness may follow


class Stopped(Exception):
    """Told to stop before everything needed was there."""


async def serve(settings: WorkerSettings, lifecycle: Lifecycle) -> None:
    """Run a worker until *lifecycle* stops it; then finish the batches in hand and give the partitions back."""
    health = Health("redis", "archive", "partitions")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serve_internal(settings.internal_host, settings.internal_port, health))
        bus = await stack.enter_async_context(open_bus(settings.shared))
        archive = await stack.enter_async_context(
            open_archive(
                settings.shared.database_url.get_secret_value(),
                size=settings.archive_connections,
                timeout_s=settings.archive_timeout_ms / 1000,
            )
        )
        try:
            await _until_reachable("redis", bus.check, health, lifecycle)
            await _until_reachable("archive", archive.check_schema, health, lifecycle)
        except Stopped:
            return
        moderation = await stack.enter_async_context(open_moderation(settings.shared.policy, Reviews(archive.database)))
        settle_gc()
        fleet = make_fleet(bus, archive, settings, moderation.for_partition)
        async with asyncio.TaskGroup() as group:
            work = group.create_task(fleet.run(), name="fleet")
            reporting = group.create_task(_report(fleet, health, settings), name="report")
            stopping = asyncio.create_task(lifecycle.stopping.wait())
            await asyncio.wait([work, stopping], return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            health.draining = True
            fleet.quiet()
            await work
            reporting.cancel()


def make_fleet(
    bus: Bus, archive: Archive, settings: WorkerSettings, moderator: Callable[[], Moderator] = AllowAll
) -> Fleet:
    """Build the fleet of one worker process. *moderator* makes one for each partition it takes."""
    # Leases tell owners apart by this name, so no other process may ever have it.
    worker = f"{settings.name or socket.gethostname()}-{secrets.token_hex(4)}"
    alone = asyncio.Lock()

    def make_owner(partition: Partition, lease: Lease) -> Owner:
        pipeline = Pipeline(partition.partition, archive, moderator(), worker)
        return Owner(partition, lease, pipeline, archive, settings, alone)

    return Fleet(bus, worker, settings, make_owner)


async def _until_reachable(name: str, action: Callable[[], object], health: Health, lifecycle: Lifecycle) -> None:
    """Repeat *action* until it goes through: tiers start in any order. Raises Stopped when told to stop."""

    async def pause(seconds: float) -> None:
        try:
            await asyncio.wait_for(lifecycle.stopping.wait(), seconds)
        except TimeoutError:
            return
        raise Stopped

    async def attempt() -> None:
        try:
            await action()  # type: ignore[misc]
        except Unavailable as exc:
            health.set(name, False, exc.detail)
            raise

    wait = wait_random_exponential(multiplier=0.1, max=2)
    await AsyncRetrying(retry=retry_if_exception_type(Unavailable), wait=wait, sleep=pause)(attempt)
    health.set(name, True)


async def _report(fleet: Fleet, health: Health, settings: WorkerSettings) -> None:
    """Tell readiness what the fleet knows."""
    while True:
        health.set("redis", not fleet.unreachable, fleet.unreachable)
        outages = fleet.outages()
        health.set("archive", not any("PostgreSQL" in text for text in outages), "; ".join(outages))
        health.set("partitions", not outages, "; ".join(outages))
        await asyncio.sleep(REPORT_EVERY_S)
