"""This worker among the others: heartbeat, leases taken and renewed, partitions handed over."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from ticketwire.bus.bus import Bus
from ticketwire.bus.partition import Lease, Partition, heartbeat, leave
from ticketwire.errors import Fenced, Unavailable
from workers import metrics
from workers.assignment import targets
from workers.owner import Owner
from workers.settings import WorkerSettings

log = logging.getLogger(__name__)

CALM_TICK_S = 0.5  # how late a worker may notice that another came or went
HUNGRY_TICK_S = 0.1  # while it lacks partitions that it should own
RENEWALS = 3  # renewals per TTL: two may fail


@dataclass(slots=True)
class _Held:
    owner: Owner
    partition: Partition
    task: asyncio.Task[None]


class Fleet:
    """Holds this worker's share of the partitions. Use `run`, and `quiet` to end it."""

    def __init__(
        self, bus: Bus, worker: str, settings: WorkerSettings, make_owner: Callable[[Partition, Lease], Owner]
    ) -> None:
        self.worker = worker
        self.contact = time.monotonic()  # when Redis last answered a heartbeat
        self.unreachable = ""  # why Redis does not answer; empty when it does
        self._bus = bus
        self._ttl_ms = settings.shared.lease_ttl_ms
        self._partitions = [Partition(bus, p, settings.shared) for p in range(settings.shared.partitions)]
        self._make_owner = make_owner
        self._held: dict[int, _Held] = {}
        self._live: tuple[str, ...] = ()
        self._servers: frozenset[str] = frozenset()
        self._targets: frozenset[int] = frozenset()
        self._quiet = asyncio.Event()

    @property
    def owned(self) -> int:
        return len(self._held)

    def outages(self) -> list[str]:
        """Why partitions wait, one text each."""
        return sorted({held.owner.outage for held in self._held.values() if held.owner.outage})

    def quiet(self) -> None:
        """Take no partition any more and finish the batches in hand; `run` returns when all are released."""
        self._quiet.set()
        for held in self._held.values():
            held.owner.quiet()

    async def run(self) -> None:
        """Work until quiet and every partition is released."""
        async with asyncio.TaskGroup() as group:
            renewed = 0.0
            while not (self._quiet.is_set() and not self._held):
                try:
                    if not self._quiet.is_set():
                        await self._look_around()
                    if time.monotonic() - renewed > self._ttl_ms / 1000 / RENEWALS:
                        await self._renew()
                        renewed = time.monotonic()
                    if not self._quiet.is_set():
                        await self._balance(group)
                    self._reached()
                except Unavailable as exc:
                    self._lost(exc)
                await self._pause()
        await self._leave()

    async def _pause(self) -> None:
        """Wait for the next round, or until an owner ends or quiet is asked for."""
        hungry = not self._quiet.is_set() and bool(self._targets - self._held.keys())
        waits = [held.task for held in self._held.values()]
        if not self._quiet.is_set():
            quiet = asyncio.ensure_future(self._quiet.wait())
            await asyncio.wait([quiet, *waits], timeout=self._tick(hungry), return_when=asyncio.FIRST_COMPLETED)
            quiet.cancel()
        elif waits:
            await asyncio.wait(waits, timeout=self._tick(hungry), return_when=asyncio.FIRST_COMPLETED)

    def _tick(self, hungry: bool) -> float:
        return min(HUNGRY_TICK_S if hungry else CALM_TICK_S, self._ttl_ms / 1000 / RENEWALS / 2)

    async def _look_around(self) -> None:
        servers = await self._bus.run_ids()
        if servers != self._servers:
            if self._servers:
                log.warning("Redis was restarted or replaced", extra={"servers": len(servers)})
                for held in self._held.values():
                    held.owner.recheck()
            self._servers = servers
        live = tuple(await heartbeat(self._bus, self.worker, self._ttl_ms))
        if live != self._live:
            self._live = live
            self._targets = targets(self.worker, live, len(self._partitions))
            log.info("workers changed", extra={"live": len(live), "share": len(self._targets)})

    async def _renew(self) -> None:
        held = list(self._held.values())
        results = await asyncio.gather(*(h.partition.renew(h.owner.lease) for h in held), return_exceptions=True)
        failure: BaseException | None = None
        for one, result in zip(held, results, strict=True):
            if isinstance(result, Fenced):
                # The scripts refuse it anyway; told now, it does not wait on its stream in vain, and this worker may
                # ask for the partition anew (a FLUSHALL takes all leases away).
                one.owner.quiet()
            elif isinstance(result, BaseException):
                failure = result
        if failure is not None:
            raise failure

    async def _balance(self, group: asyncio.TaskGroup) -> None:
        """Take what is free of this worker's share; hand over one partition beyond it at a time."""
        wanted = [self._partitions[p] for p in sorted(self._targets - self._held.keys())]
        leases = await asyncio.gather(*(p.acquire(self.worker) for p in wanted), return_exceptions=True)
        failure: BaseException | None = None
        for partition, lease in zip(wanted, leases, strict=True):
            if isinstance(lease, Lease):
                self._start(group, partition, lease)
            elif isinstance(lease, BaseException):
                failure = lease
        if failure is not None:
            raise failure
        over = sorted(self._held.keys() - self._targets)
        if over and not any(self._held[p].owner.is_quiet for p in over):
            self._held[over[0]].owner.quiet()

    def _start(self, group: asyncio.TaskGroup, partition: Partition, lease: Lease) -> None:
        owner = self._make_owner(partition, lease)
        task = group.create_task(self._own(owner, partition))
        self._held[partition.partition] = _Held(owner, partition, task)
        metrics.TAKEOVERS.inc()
        metrics.PARTITIONS.set(len(self._held))
        log.debug("partition taken", extra={"partition": partition.partition, "epoch": lease.epoch})
        if self._quiet.is_set():
            owner.quiet()

    async def _own(self, owner: Owner, partition: Partition) -> None:
        """Run *owner* to its end and give its lease back."""
        try:
            await owner.run()
            if not await partition.release(owner.lease):
                raise Fenced("the lease had gone before it was given back")
            log.debug("partition released", extra={"partition": partition.partition})
        except Fenced:
            metrics.FENCED.inc()
            log.warning("partition lost to another worker", extra={"partition": partition.partition})
        except Unavailable as exc:
            # The lease could not be given back; it ends by itself.
            log.warning("partition not released", extra={"partition": partition.partition, "why": exc.detail})
        finally:
            del self._held[partition.partition]
            metrics.PARTITIONS.set(len(self._held))

    async def _leave(self) -> None:
        try:
            await leave(self._bus, self.worker)
        except Unavailable:
            pass  # the others notice when the heartbeat runs out

    def _reached(self) -> None:
        if self.unreachable:
            log.warning("Redis is back", extra={"after_s": round(time.monotonic() - self.contact, 3)})
        self.unreachable = ""
        self.contact = time.monotonic()

    def _lost(self, exc: Unavailable) -> None:
        if not self.unreachable:
            log.warning("Redis is out of reach", extra={"why": exc.detail})
        self.unreachable = exc.detail
