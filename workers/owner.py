"""One owned partition: takeover, then read, handle, confirm, until told to be quiet or fenced off."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from schemas.message_id import MessageId
from ticketwire.archive.messages import Archive
from ticketwire.archive.rows import ArchiveRow
from ticketwire.bus.connection import GroupLost, Regressed
from ticketwire.bus.partition import Confirmation, Entry, Lease, LogRefused, Partition, Pending, Settlement
from ticketwire.errors import Rejected, Unavailable
from workers import metrics
from workers.pipeline import Pipeline, count, show
from workers.retry import Care, care_for, runs
from workers.settings import WorkerSettings

log = logging.getLogger(__name__)

MOST_AT_ONCE = 500  # settlements in one call: Lua's `unpack` ends near 8,000 values
# How far back the archive is asked for what Redis lost. A failover loses seconds; after a FLUSHALL older messages
# are read from the archive, so rebuilding every log would only fill Redis.
WITNESS_WINDOW_MS = 3_600_000

T = TypeVar("T")


class Quiet(Exception):
    """Raised inside the owner to leave a wait: the partition is to be released."""


class Owner:
    """Works one partition under one lease. `run` returns when quiet, or raises Fenced when the lease was lost."""

    def __init__(
        self,
        partition: Partition,
        lease: Lease,
        pipeline: Pipeline,
        archive: Archive,
        settings: WorkerSettings,
        alone: asyncio.Lock | None = None,
    ) -> None:
        """*alone* is one for all owners of a process: see `_recover_stretch`."""
        self.lease = lease
        self.outage = ""  # why the partition waits, for readiness; empty when it does not
        self._partition = partition
        self._pipeline = pipeline
        self._archive = archive
        self._settings = settings
        self._alone = alone or asyncio.Lock()
        self._quiet = asyncio.Event()
        self._parked: asyncio.Task[None] | None = None
        self._last_read = lease.done
        self._done = MessageId.parse(lease.done)  # the watermark as far as we know; Redis must not know less
        self._takeover = True  # until what the last owner left has been looked at
        self._recheck = True  # Redis may have lost something: look again before the next batch
        self._lost: deque[ArchiveRow] = deque()  # shown once, lost by Redis, to be confirmed again; in id order
        # Delivery counts to go back to for entries tried alone while something was out of reach.
        self._tried: dict[str, int] = {}

    def quiet(self) -> None:
        """Take no more: `run` ends after the batch in hand, or at once when it waits."""
        self._quiet.set()
        self._wake()

    def recheck(self) -> None:
        """Look again at the pending list and the archive: Redis was restarted or another server took over."""
        self._recheck = True
        self._wake()

    def _wake(self) -> None:
        if self._parked is not None:
            self._parked.cancel()  # only ever inside XREAD, which has no side effect

    @property
    def is_quiet(self) -> bool:
        return self._quiet.is_set()

    async def run(self) -> None:
        """Work until quiet. Raises Fenced."""
        try:
            entries: list[Entry] = []
            while not self._quiet.is_set():
                try:
                    if self._recheck and not entries:
                        await self._recover()
                        continue  # told to be quiet meanwhile, it left some pending: nothing newer may be read
                    entries = await (self._confirmed(entries) if entries else self._next())
                except (GroupLost, Regressed) as exc:
                    # What is in hand may lie on no stream any more: the pending list and the archive know.
                    self._note_loss(exc)
                    entries = []
                    self._last_read = "0-0"
                    self._recheck = True
            if entries:  # read in the same call as the last confirm, so in hand
                await self._settle(entries)
        except (Quiet, Regressed):
            pass  # what is in hand stays pending, where the next owner finds it

    def _note_loss(self, exc: GroupLost | Regressed) -> None:
        if isinstance(exc, GroupLost):
            metrics.LOST_GROUPS.inc()
            log.error("consumer group lost", extra={"partition": self.lease.partition})
        else:
            log.error("watermark lost", extra={"partition": self.lease.partition, "why": exc.detail})

    # --- new entries

    async def _next(self) -> list[Entry]:
        """Return the next entries, waiting for them; empty after a wait in vain or when to look again."""
        entries = await self._read()
        if entries or self._recheck:
            return entries
        if self._lost:
            await self._confirm([], then_read=0)
        return await self._park()

    async def _read(self) -> list[Entry]:
        try:
            entries = await self._partition.read(self.lease, self._settings.batch)
        except Unavailable as exc:
            # The reply may have been lost after the read: what it held lies in the pending list. Or a replica was
            # promoted that has unread what we have read, and waiting for what is newer would overtake it.
            await self._outage_over(exc, partial(self._partition.renew, self.lease))
            self._recheck = True
            return []
        return self._note(entries)

    def _note(self, entries: list[Entry]) -> list[Entry]:
        if entries:
            self._last_read = entries[-1].id
        return entries

    async def _park(self) -> list[Entry]:
        """Wait for new entries; none when told to be quiet or to look again, or after a wait in vain."""
        if self._quiet.is_set() or self._recheck:  # said while we were reading: nobody will say it again
            return []
        self._parked = asyncio.current_task()
        try:
            return self._note(await self._partition.wait(self._last_read, self._settings.batch))
        except Unavailable as exc:
            self._parked = None
            await self._outage_over(exc, partial(self._partition.renew, self.lease))
            self._recheck = True
        except asyncio.CancelledError:
            task = asyncio.current_task()
            woken = self._quiet.is_set() or self._recheck
            if not woken or task is None or task.uncancel() > 0:
                raise
        finally:
            self._parked = None
        return []

    # --- one batch

    async def _settle(self, entries: Sequence[Entry]) -> None:
        """Handle and confirm *entries* without reading more."""
        settlements = await self._handle(entries)
        await self._confirm(settlements, then_read=0)

    async def _confirmed(self, entries: Sequence[Entry]) -> list[Entry]:
        """Handle and confirm *entries*; return the next ones, which came in the same call."""
        started = time.monotonic()
        settlements = await self._handle(entries)
        confirmation = await self._confirm(settlements, then_read=self._settings.batch)
        metrics.BATCH.observe(len(entries))
        metrics.HANDLE.observe(time.monotonic() - started)
        return self._note(confirmation.entries)

    async def _handle(self, entries: Sequence[Entry]) -> list[Settlement]:
        return await self._until_available(lambda: self._pipeline.handle(entries, now_ms()))

    async def _confirm(self, settlements: list[Settlement], then_read: int) -> Confirmation:
        """Confirm, and before it in id order what Redis lost; return what the last call read."""
        merged = self._merge_lost(settlements)
        while len(merged) > MOST_AT_ONCE:
            await self._confirm_until_done(merged[:MOST_AT_ONCE], then_read=0)
            merged = merged[MOST_AT_ONCE:]
        return await self._confirm_until_done(merged, then_read)

    def _merge_lost(self, settlements: list[Settlement]) -> list[Settlement]:
        """Put lost messages among *settlements*, those older than the last of them; all when there are none."""
        if not self._lost:
            return settlements
        end = MessageId.parse(settlements[-1].id) if settlements else None
        lost = []
        while self._lost and (end is None or self._lost[0].message_id < end):
            lost.append(show(self._lost.popleft().to_confirmed()))
        return sorted(settlements + lost, key=lambda s: MessageId.parse(s.id))

    async def _confirm_until_done(self, settlements: list[Settlement], then_read: int) -> Confirmation:
        """Confirm until Redis has done it. Repeating is safe; see confirm.lua."""
        while True:
            try:
                confirmation = await self._partition.confirm(
                    self.lease, settlements, then_read=then_read, known=self._done
                )
                break
            except LogRefused as exc:
                settlements = [self._bury_refused(s, exc) if s.id == exc.entry_id else s for s in settlements]
            except Unavailable as exc:
                # It may have been carried out, with entries read that nobody heard of: settle first,
                # then look at the pending list.
                again = partial(self._partition.confirm, self.lease, settlements, known=self._done)
                confirmation = await self._outage_over(exc, again)
                self._recheck = True
                break
        if settlements:
            self._done = max(self._done, MessageId.parse(settlements[-1].id))
        count(settlements)
        for old, new in confirmation.renamed:
            metrics.RENAMED.inc()
            log.error("log refused an id", extra={"partition": self.lease.partition, "entry": old, "renamed": new})
            ticket = next(s.ticket for s in settlements if s.id == old)
            rename = partial(self._archive.rename, ticket, MessageId.parse(old), MessageId.parse(new))
            await self._until_available(rename)
        return confirmation

    def _bury_refused(self, settlement: Settlement, error: LogRefused) -> Settlement:
        fields = ["ticket_id", settlement.ticket, *settlement.fields]
        return self._pipeline.bury(Entry(settlement.id, fields), error, "confirm", now_ms())

    # --- what an earlier owner, or an earlier try, left pending

    async def _recover(self) -> None:
        """Handle everything that was read but never settled, in id order, before anything new."""
        self._recheck = False
        await self._ask_second_witness()
        while True:
            pending = await self._until_available(
                partial(self._partition.recover, self.lease, "-", self._settings.batch, takeover=self._takeover)
            )
            self._takeover = False  # from here on it is read for the second time by us, not by a new owner
            if not pending:
                return
            metrics.RECOVERED.inc(len(pending))
            log.info("entries recovered", extra={"partition": self.lease.partition, "entries": len(pending)})
            for stretch in runs([p for p in pending if p.fields is not None], self._is_suspect):
                await self._recover_stretch(stretch)
            if self._quiet.is_set():
                return

    def _is_suspect(self, pending: Pending) -> bool:
        return care_for(self._deliveries(pending), self._settings.max_deliveries) is not Care.TOGETHER

    def _deliveries(self, pending: Pending) -> int:
        return min(pending.deliveries, self._tried.get(pending.id, pending.deliveries))

    async def _recover_stretch(self, stretch: Sequence[Pending]) -> None:
        if self._quiet.is_set():
            return
        entries = [Entry(p.id, p.fields or []) for p in stretch]
        first = stretch[0]
        deliveries = self._deliveries(first)
        care = care_for(deliveries, self._settings.max_deliveries) if len(stretch) == 1 else Care.TOGETHER
        if care is Care.BURY:
            archived = await self._until_available(partial(self._pipeline.already_archived, entries[0]))
            if archived is not None:
                await self._confirm([archived], then_read=0)
                return
            why = f"handed out {deliveries} times to workers that then died, {self._settings.max_deliveries} allowed"
            letter = self._pipeline.bury(entries[0], Rejected("poison", why), "worker", now_ms(), deliveries)
            await self._confirm([letter], then_read=0)
            return
        if care is Care.ALONE:
            # One in the whole process: what kills it takes all partitions along, and must not be blamed on others.
            async with self._alone:
                if not self._quiet.is_set():
                    await self._try_alone(entries, deliveries)
            return
        await self._settle(entries)

    async def _try_alone(self, entries: Sequence[Entry], deliveries: int) -> None:
        (entry,) = entries
        self._tried[entry.id] = deliveries
        await self._until_available(partial(self._partition.count_attempt, self.lease, entry.id, deliveries + 1))
        await self._settle(entries)
        self._tried.pop(entry.id, None)

    async def _ask_second_witness(self) -> None:
        """Find what Redis forgot though it was shown: the archive remembers it.

        What is archived above the watermark and still lies on the stream was in a dead owner's hands and is handled
        as pending. What is gone from the stream as well was lost with Redis's tail (failover, FLUSHALL, an old file).
        """
        partition = self.lease.partition
        self._done = await self._until_available(self._partition.watermark)
        newest = await self._until_available(partial(self._archive.newest_of_partition, partition))
        if newest is None:
            return
        done = self._done
        # Rows further back are readers' affair: they find them in the archive, as after any expiry of a log.
        after = max(done, MessageId(max(0, newest.ms - WITNESS_WINDOW_MS), 0))
        self._lost.clear()
        while newest > done:
            rows = await self._until_available(
                partial(self._archive.confirmed_after, partition, after, self._settings.batch)
            )
            if not rows:
                break
            ids = [str(row.message_id) for row in rows]
            absent = await self._until_available(partial(self._partition.absent, ids))
            self._lost.extend(row for row, entry_id in zip(rows, ids, strict=True) if entry_id in absent)
            after = rows[-1].message_id
        if self._lost:
            metrics.REDIS_LOST.inc(len(self._lost))
            log.error("Redis lost confirmed messages", extra={"partition": partition, "messages": len(self._lost)})
        await self._until_available(partial(self._advance, newest))

    async def _advance(self, newest: MessageId) -> None:
        # The stream may be missing; recover.lua makes it.
        await self._partition.recover(self.lease, "-", 1, takeover=False)
        await self._partition.advance(self.lease, newest)

    # --- waiting out an outage

    async def _until_available(self, action: Callable[[], Awaitable[T]]) -> T:
        """Do *action*, however long what it needs is out of reach. Raises Quiet when told to stop meanwhile."""
        try:
            return await action()
        except Unavailable as exc:
            return await self._outage_over(exc, action)

    async def _outage_over(self, exc: Unavailable, action: Callable[[], Awaitable[T]]) -> T:
        """Repeat *action* with full-jitter backoff until it goes through; one log line at each end."""
        started = time.monotonic()
        self.outage = exc.detail
        metrics.OUTAGES.inc()
        log.warning("partition waits", extra={"partition": self.lease.partition, "why": exc.detail})
        await self._forgive()
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Unavailable),
            wait=wait_random_exponential(  # full jitter, so that many partitions do not come back as one
                multiplier=self._settings.backoff_base_ms / 1000, max=self._settings.backoff_cap_ms / 1000
            ),
            sleep=self._pause,
        )

        async def attempt() -> T:  # tenacity awaits only what it can see to be a coroutine function
            return await action()

        try:
            with metrics.WAITING.track_inprogress():
                result: T = await retrying(attempt)
        finally:
            self.outage = ""
        seconds = round(time.monotonic() - started, 3)
        log.warning("partition goes on", extra={"partition": self.lease.partition, "waited_s": seconds})
        return result

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._quiet.wait(), seconds)
        except TimeoutError:
            return
        raise Quiet

    async def _forgive(self) -> None:
        """Put back the count of the entry being tried alone: an outage is not its attempt."""
        for entry_id, deliveries in self._tried.items():
            try:
                await self._partition.count_attempt(self.lease, entry_id, deliveries)
            except Unavailable:
                return  # Redis itself is away; `_tried` remembers


def now_ms() -> int:
    return time.time_ns() // 1_000_000
