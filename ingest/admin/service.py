"""What the admin API holds open, and what it does unasked: count, record, purge what is too old."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ingest import metrics
from ingest.admin.jobs import Runner
from ingest.admin.letters import Letters
from ingest.admin.people import Changes, Held, Senders
from ingest.admin.trace import Tracer
from ingest.settings import IngestSettings
from ticketwire.archive.audit import Audit
from ticketwire.archive.dead_letters import LetterArchive
from ticketwire.archive.messages import open_archive
from ticketwire.archive.reviews import Reviews
from ticketwire.bus.accept import Acceptor
from ticketwire.bus.bus import Bus, open_bus
from ticketwire.bus.dead_letters import DeadLetters
from ticketwire.bus.jobs import Jobs, become_keeper
from ticketwire.bus.overview import PartitionView, partitions
from ticketwire.errors import SettingsError, Unavailable

log = logging.getLogger(__name__)

SAMPLE_EVERY_S = 5.0
KEPT_SAMPLES = 3
KEEPER_MS = 30_000  # one process in this time records and purges for all
CONNECTIONS = 4
TIMEOUT_S = 10.0  # longest wait for PostgreSQL: nobody sends messages through here
_DAY_MS = 86_400_000


@dataclass(slots=True)
class Admin:
    """What a request needs. Made by `open_admin`."""

    bus: Bus
    letters: Letters
    tracer: Tracer
    audit: Audit
    held: Held
    senders: Senders
    changes: Changes
    runner: Runner
    samples: deque[list[PartitionView]]  # the last few looks at all partitions, oldest first
    redis_timeout_s: float

    def earlier(self) -> list[PartitionView | None]:
        """The oldest look that is kept, for rates over some seconds."""
        return list(self.samples[0]) if self.samples else [None] * self.bus.keys.partitions


class Keeper:
    """Samples Redis for the metrics and looks after dead letters. Two of them do no harm."""

    def __init__(self, admin: Admin, days: float, held_days: float) -> None:
        self._admin = admin
        self._days = days
        self._held_days = held_days
        self._name = secrets.token_hex(8)
        self._known = False  # whether this Redis has been found to be ours
        self._away = ""

    async def run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(SAMPLE_EVERY_S)

    async def look(self) -> None:
        """Look once. Raises SettingsError when this Redis is not the one we are set up for."""
        try:
            if not self._known:
                await self._admin.bus.check()
                self._known = True
            views = await partitions(self._admin.bus)
            self._admin.samples.append(views)
            for view in views:
                metrics.DEAD_LETTERS.labels(f"{view.partition:02d}").set(view.dead)
            if await become_keeper(self._admin.bus, self._name, KEEPER_MS):
                await self.keep()
        except Unavailable as exc:
            self._known = False
            self._say(exc.detail)
        except SettingsError:
            raise
        except Exception as exc:
            # A refused copy, a key of another type, a bug: nothing was removed, it is tried again, and it must not
            # take the tier along that accepts messages.
            if not self._away:
                log.exception("dead letters are not looked after")
            self._away = str(exc) or type(exc).__name__
        else:
            if self._away:
                log.warning("dead letters are looked after again")
            self._away = ""

    def _say(self, why: str) -> None:
        if not self._away:
            log.warning("dead letters are not looked after", extra={"why": why})
        self._away = why

    async def keep(self) -> None:
        """Record what somebody sent who died before recording it, and purge what is too old."""
        letters = self._admin.letters
        for partition in range(letters.dead.partitions):
            await letters.record_sent(partition)
        purged = await letters.purge_older(time.time_ns() // 1_000_000 - round(self._days * _DAY_MS))
        if purged:
            log.info("old dead letters purged", extra={"letters": purged, "days": self._days})
        sent = await self._admin.held.send_left_behind()
        if sent:
            log.warning("approved messages sent that were left behind", extra={"messages": sent})
        if self._held_days:
            before_ms = time.time_ns() // 1_000_000 - round(self._held_days * _DAY_MS)
            expired = await self._admin.held.reject_older(before_ms)
            if expired:
                log.info("held messages rejected by expiry", extra={"messages": expired, "days": self._held_days})


@asynccontextmanager
async def open_admin(settings: IngestSettings) -> AsyncIterator[Admin]:
    """Open connections of the API's own: a replay of thousands must not wait in the senders' way, nor they in its.

    Redis and PostgreSQL may be away: then calls get 503 until they are back.
    """
    url = settings.shared.database_url.get_secret_value()
    async with (
        open_bus(settings.shared) as bus,
        open_archive(url, size=CONNECTIONS, timeout_s=TIMEOUT_S) as archive,
        asyncio.TaskGroup() as tasks,
        Runner(Jobs(bus)) as runner,
    ):
        audit = Audit(archive.database)
        letters = Letters(DeadLetters(bus), LetterArchive(archive.database), audit, bus.keys.partition_of)
        tracer = Tracer(bus, archive, letters, audit)
        samples: deque[list[PartitionView]] = deque(maxlen=KEPT_SAMPLES)
        timeout_s = settings.shared.redis_timeout_ms / 1000
        reviews = Reviews(archive.database)
        remember_ms = round(settings.idempotency_hours * 3_600_000)
        acceptor = Acceptor(bus, settings.shared, retry_ms=settings.deadline_ms, remember_ms=remember_ms)
        held = Held(bus, reviews, acceptor)
        changes = Changes(bus, archive, audit, acceptor)
        admin = Admin(bus, letters, tracer, audit, held, Senders(reviews), changes, runner, samples, timeout_s)
        keeper = Keeper(admin, settings.dead_letter_days, settings.held_days)
        keeping = tasks.create_task(keeper.run(), name="keeper")
        yield admin
        keeping.cancel()
