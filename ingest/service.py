"""What the ingest tier holds open: the bus, the group commit, the archive, and an eye on Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import blake2b

from ingest import metrics
from ingest.admission import Admission, Marks
from ingest.group_commit import GroupCommit
from ingest.settings import IngestSettings
from ingest.witness import Witness
from schemas.entries import encode_submitted
from schemas.events import Submitted
from ticketwire.archive.messages import Archive, open_archive
from ticketwire.bus.accept import Acceptor, Offer
from ticketwire.bus.bus import Bus, open_bus
from ticketwire.bus.load import measure
from ticketwire.errors import Unavailable
from ticketwire.telemetry.health import Health

MOST_IN_CALL = 500  # a script with more messages would hold Redis for milliseconds
# Of one entry in the Redis call beyond its texts: field names, lengths, digest.
_OVERHEAD_BYTES = 200


class Ingest:
    """What a request needs. Made by `open_ingest`."""

    def __init__(self, bus: Bus, archive: Archive, admission: Admission, commit: GroupCommit) -> None:
        self.bus = bus
        self.archive = archive
        self.admission = admission
        self._commit = commit

    def submit(self, message: Submitted) -> asyncio.Future[str]:
        """Begin to store *message*; the future becomes its id. See `GroupCommit.submit` for how it fails.

        Messages of one ticket are stored in the order of the calls. Raises Unavailable when the door is closed.
        """
        keys = self.bus.keys
        partition = keys.partition_of(message.ticket_id)
        if not self.admission.open and (refusal := self.admission.refusal(partition)) is not None:
            raise refusal
        key = digest = ""
        if message.client_message_id is not None:
            key = keys.idempotency(partition, message.ticket_id, message.sender_id, message.client_message_id)
            digest = digest_of(message)
        size = 4 * len(message.message) + _OVERHEAD_BYTES
        return self._commit.submit(Offer(partition, key, digest, encode_submitted(message)), size)


def digest_of(message: Submitted) -> str:
    """Return 24 hex digits that tell two messages under one idempotency key apart. Ids hold no line break."""
    text = f"{message.ticket_id}\n{message.sender_id}\n{message.message}"
    return blake2b(text.encode(), digest_size=12).hexdigest()


@asynccontextmanager
async def open_ingest(settings: IngestSettings, health: Health) -> AsyncIterator[Ingest]:
    """Open everything. Redis and PostgreSQL may be away: then requests get 503 until they are back.

    Reports on Redis to *health*. Raises SettingsError, now or later, when Redis turns out to be another
    deployment's: another number of partitions, or without what the durability asks for.
    """
    shared = settings.shared
    admission = Admission(
        Marks(
            max_backlog=settings.max_backlog,
            low_backlog=settings.low_backlog,
            max_memory=settings.max_redis_memory,
            low_memory=settings.low_redis_memory,
        )
    )
    async with (
        open_bus(shared) as bus,
        open_archive(
            shared.database_url.get_secret_value(),
            size=settings.archive_connections,
            timeout_s=settings.archive_timeout_ms / 1000,
        ) as archive,
        asyncio.TaskGroup() as tasks,
    ):
        acceptor = Acceptor(
            bus, shared, retry_ms=settings.deadline_ms, remember_ms=round(settings.idempotency_hours * 3_600_000)
        )
        watch = Watch(bus, acceptor, admission, health, settings.measure_ms / 1000, shared.redis_timeout_ms / 1000)
        await watch.look()  # so that with Redis there the first request finds the door open
        witness = Witness(bus, archive, shared, settings.remember_answers, settings.measure_ms / 1000)
        await witness.look()  # so that nothing is answered before it is known what may change
        watching = [tasks.create_task(watch.run(), name="watch"), tasks.create_task(witness.run(), name="witness")]
        own_lanes = bus.keys.cluster or shared.durability == "fsync"
        async with GroupCommit(
            witness.remembering(acceptor.accept),
            lanes=shared.partitions if own_lanes else 1,
            deadline_s=settings.deadline_ms / 1000,
            # A call that waits up to a second for the disk should take along all it can.
            group_messages=MOST_IN_CALL if shared.durability == "fsync" else settings.group_messages,
            group_bytes=settings.group_bytes,
            max_waiting=settings.max_waiting,
            max_waiting_bytes=settings.max_waiting_bytes,
        ) as commit:
            try:
                yield Ingest(bus, archive, admission, commit)
            finally:
                admission.drain()
        for task in watching:
            task.cancel()


class Watch:
    """Looks at Redis again and again, and tells the door, readiness and the metrics."""

    def __init__(
        self, bus: Bus, acceptor: Acceptor, admission: Admission, health: Health, every_s: float, timeout_s: float
    ) -> None:
        self._bus = bus
        self._acceptor = acceptor
        self._admission = admission
        self._health = health
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._known = False  # whether this Redis has been found to be ours since it was last away
        self._ever_known = False

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            await self.look()

    async def look(self) -> None:
        """Look once. Raises SettingsError when this Redis is not the one we are set up for."""
        try:
            if not self._known:
                # After an outage it may be another server, or an emptied one: agree on the partitions anew.
                await self._bus.check()
                await self._acceptor.check()
            load = await measure(self._bus, self._timeout_s)
        except Unavailable as exc:
            self._known = False
            if not self._ever_known:
                self._admission.shut(exc.detail)
            # Else requests are let in and tried until their deadline: most outages are shorter.
            self._health.set("redis", False, exc.detail)
            return
        self._known = self._ever_known = True
        self._admission.observe(load.backlog, load.memory)
        metrics.BACKLOG.set(sum(load.backlog))
        metrics.BACKLOG_MAX.set(max(load.backlog))
        metrics.MEMORY.set(load.memory)
        metrics.CLOSED.set(self._admission.closed_partitions)
        # A closed door is no reason to be not ready: senders should get our 503 with its Retry-After, and every
        # other node would close just the same.
        self._health.set("redis", True)
