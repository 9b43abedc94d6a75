"""What all v1 clients of a node share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

from delivery.access import Access
from delivery.backlog import Backlog
from delivery.marks import Marks
from delivery.members import Load
from delivery.presence import Presence
from delivery.replay import Replay
from delivery.settings import DeliverySettings
from delivery.subscriptions import Rooms
from delivery.typists import Typists
from ticketwire.archive.messages import Archive
from ticketwire.bus.bus import Bus

log = logging.getLogger(__name__)


class Closable(Protocol):
    """A client as the node sees it."""

    stalled_at: float | None  # since when its window has been full with something waiting; monotonic seconds

    def fail(self, code: str, detail: str) -> None: ...

    def announce(self, within_ms: int) -> None: ...


@dataclass(slots=True, eq=False)
class Services:
    """The node, as a client sees it."""

    settings: DeliverySettings
    node: str
    bus: Bus
    archive: Archive
    backlog: Backlog
    rooms: Rooms
    replay: Replay
    access: Access
    presence: Presence
    marks: Marks
    typists: Typists
    load: Load
    publish: Callable[[list[tuple[str, str]]], None]  # notices, as (ticket, JSON)
    group: asyncio.TaskGroup
    entering: asyncio.Semaphore  # subscriptions under way
    clients: set[Closable] = field(default_factory=set)
    stalled: set[Closable] = field(default_factory=set)
    deserted: asyncio.Event = field(default_factory=asyncio.Event)  # the last client has gone

    def spawn(self, work: Coroutine[Any, Any, None], client: Closable) -> None:
        """Run *work* beside everything else; a fault in it ends its client, not the node."""
        self.group.create_task(self._guarded(work, client))

    @staticmethod
    async def _guarded(work: Coroutine[Any, Any, None], client: Closable) -> None:
        try:
            await work
        except Exception:
            log.exception("fault in a session")
            client.fail("internal", "a fault of the service")
