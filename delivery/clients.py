"""All v1 clients of this node: what runs beside them, and their end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from delivery import metrics
from delivery.access import Access
from delivery.backlog import Backlog
from delivery.client import Client
from delivery.marks import Marks
from delivery.presence import Presence
from delivery.replay import Replay
from delivery.services import Services
from delivery.settings import DeliverySettings
from delivery.subscriptions import Rooms
from delivery.typists import Typists
from ticketwire.archive.messages import Archive
from ticketwire.bus.bus import Bus
from ticketwire.bus.readers import publish
from ticketwire.errors import Unavailable

log = logging.getLogger(__name__)

SWEEP_S = 0.25
LAST_FLUSH_S = 2.0


class NodeLoad:
    """Whether the event loop keeps up."""

    def __init__(self) -> None:
        self.shedding = False


class Clients:
    """Makes clients and looks after them. Use `open_clients`."""

    def __init__(self, services: Services, load: NodeLoad) -> None:
        self.services = services
        self.load = load
        self._notices: list[tuple[str, str]] = []
        self._notices_wait = asyncio.Event()
        services.publish = self._publish

    def __len__(self) -> int:
        return len(self.services.clients)

    def new(self) -> Client:
        return Client(self.services)

    def announce(self, within_ms: int) -> None:
        """Ask all clients to reconnect elsewhere within *within_ms*."""
        for client in list(self.services.clients):
            client.announce(within_ms)

    async def gone(self, within_s: float) -> None:
        """Return when no client is left, or after *within_s*."""
        self.services.deserted.clear()
        if self.services.clients:
            with suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self.services.deserted.wait()

    def _publish(self, notices: list[tuple[str, str]]) -> None:
        if notices:
            self._notices += notices
            self._notices_wait.set()

    async def publish(self) -> None:
        """Publish typing notices together as they come, until cancelled. What Redis does not take is left out."""
        while True:
            await self._notices_wait.wait()
            self._notices_wait.clear()
            notices, self._notices = self._notices, []
            if self.load.shedding:
                metrics.SHED.labels("typing").inc(len(notices))
                continue
            try:
                await publish(self.services.bus, notices)
            except Unavailable:
                metrics.SHED.labels("typing").inc(len(notices))

    async def sweep(self) -> None:
        """Close who makes no progress, end typing, measure how late the event loop is; until cancelled."""
        services, settings = self.services, self.services.settings
        due = time.monotonic() + SWEEP_S
        while True:
            await asyncio.sleep(due - time.monotonic())
            now = time.monotonic()
            self.load.shedding = now - due > settings.shed_lag_ms / 1000
            due = now + SWEEP_S
            self._publish(services.typists.expire(now))
            for client in list(services.stalled):
                if client.stalled_at is not None and now - client.stalled_at > settings.ack_seconds:
                    client.fail("ack_timeout", f"no acknowledgement for {settings.ack_seconds:g} s with a full window")
            metrics.SEATS.set(services.rooms.seats)


@asynccontextmanager
async def open_clients(
    settings: DeliverySettings,
    bus: Bus,
    archive: Archive,
    backlog: Backlog,
    rooms: Rooms,
    replay: Replay,
    access: Access,
    node: str,
) -> AsyncIterator[Clients]:
    """Clients for as long as the block; what they were told is written to Redis at its end."""
    load = NodeLoad()
    marks = Marks(bus, rooms.crowded, every_s=settings.marks_seconds, days=settings.cursor_days)
    presence = Presence(bus, node, lease_s=settings.presence_lease_seconds, grace_s=settings.presence_grace_seconds)
    async with asyncio.TaskGroup() as group:
        services = Services(
            settings, node, bus, archive, backlog, rooms, replay, access, presence, marks,
            Typists(settings.typing_seconds), load, lambda _: None, group,
            asyncio.Semaphore(settings.subscribe_at_once),
        )  # fmt: skip
        clients = Clients(services, load)
        work = [
            group.create_task(clients.sweep(), name="sweep"),
            group.create_task(clients.publish(), name="notices"),
            group.create_task(marks.run(), name="marks"),
            group.create_task(presence.run(), name="presence"),
        ]
        try:
            yield clients
        finally:
            for task in work:
                task.cancel()
            presence.close()
            for client in list(services.clients):
                client.fail("draining", "this node restarts")
            with suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(LAST_FLUSH_S):
                    await marks.flush()
