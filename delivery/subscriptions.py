"""The rooms of this node: opened while somebody listens, kept true by repairs and checks, closed after a while."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from delivery import metrics
from delivery.backlog import Backlog
from delivery.events import read_event
from delivery.fanout import Fanout, Ticker
from delivery.replay import backoff
from delivery.room import Room
from delivery.settings import DeliverySettings
from schemas.message_id import ZERO, MessageId
from ticketwire.bus.bus import Bus
from ticketwire.bus.log import tops
from ticketwire.bus.subscriber import Subscriber
from ticketwire.errors import Unavailable

log = logging.getLogger(__name__)

REPAIRS_AT_ONCE = 16  # pages in memory for repairs; apart from replays, so that live readers never wait for those


class Everything(Fanout):
    """Every ticket's messages, live only: `ticketwire dev`'s feed for sockets that name no ticket.

    It has no position, so what is published while its subscription is down is not repaired.
    """

    def on_message(self, payload: str) -> None:
        found = read_event(payload)
        if isinstance(found, tuple):
            self.emit(found[0])

    def on_missed(self) -> None:
        metrics.RESUBSCRIBED.inc()


class Rooms:
    """Who listens to what on this node. Use `open_rooms`."""

    def __init__(
        self, bus: Bus, subscriber: Subscriber, backlog: Backlog, settings: DeliverySettings, group: asyncio.TaskGroup
    ) -> None:
        self._bus = bus
        self._subscriber = subscriber
        self._backlog = backlog
        self._settings = settings
        self._group = group
        self._rng = random.Random()
        self._ticker = Ticker(settings.coalesce_ms / 1000)
        self._rooms: dict[str, Room] = {}
        self._everything: Everything | None = None
        self._everything_lock = asyncio.Lock()
        self._repair_turn = asyncio.Semaphore(REPAIRS_AT_ONCE)
        self._suspects: set[Room] = set()  # to be compared with their logs at once
        self._suspicion = asyncio.Event()

    def __len__(self) -> int:
        return len(self._rooms)

    def hold_nothing(self) -> None:
        """Write what busy rooms hold, and every event at once from now on: sockets are about to be closed."""
        self._ticker.hold_nothing()

    @property
    def seats(self) -> int:
        """Subscriptions of v1 clients."""
        return sum(members.seats for room in self._rooms.values() if (members := room.members()) is not None)

    def crowded(self, ticket: str) -> bool:
        """Whether a ticket has so many readers here that receipts of all for all would be too many."""
        room = self._rooms.get(ticket)
        members = room.members() if room is not None else None
        return members is not None and members.seats > self._settings.receipt_readers

    # --- entering and leaving

    async def enter(self, ticket: str) -> Room:
        """Return the ticket's room, subscribed and with its position known; give it back with `release`.

        So whoever is told that its socket is open sees every message accepted from then on. Raises Unavailable.
        """
        room = self._rooms.get(ticket)
        if room is None:
            room = self._rooms[ticket] = Room(ticket, self._ticker, self.repair, self._settings.recent_events)
            metrics.ROOMS.set(len(self._rooms))
            room.opening = self._group.create_task(self._open(room), name="open room")
        room.users += 1
        if room.linger is not None:
            room.linger.cancel()
            room.linger = None
        if room.opening is not None:
            try:
                await asyncio.shield(room.opening)
            except BaseException:
                self.release(room)
                raise
            if not room.is_open:
                self.release(room)
                raise Unavailable(room.refusal)
        return room

    def release(self, room: Room) -> None:
        """End one use of a room; after its last one it stays for a while, as people reload pages."""
        room.users -= 1
        if room.users == 0 and self._rooms.get(room.ticket) is room:
            loop = asyncio.get_running_loop()
            room.linger = loop.call_later(self._settings.linger_seconds, self._close, room)

    async def _open(self, room: Room) -> None:
        try:
            async with asyncio.timeout(self._settings.open_seconds):
                await self._subscriber.subscribe(self._bus.keys.events(room.ticket), room)
                # After the subscription: what is confirmed later comes as an event, what was before is not owed.
                position = await self._backlog.newest(room.ticket)
        except TimeoutError:
            self._forget(room, f"Redis did not confirm a subscription within {self._settings.open_seconds:g} s")
        except Unavailable as exc:
            self._forget(room, exc.detail)
        except asyncio.CancelledError:
            self._forget(room, "this node is stopping")
            raise
        except Exception:  # one broken ticket must not end the node for all others
            log.exception("room cannot be opened", extra={"ticket": room.ticket})
            self._forget(room, "a fault of the service")
        else:
            room.start(position or ZERO)
        finally:
            room.opening = None

    def _forget(self, room: Room, refusal: str) -> None:
        room.refusal = refusal
        self._close(room)

    def _close(self, room: Room) -> None:
        if self._rooms.get(room.ticket) is room:
            del self._rooms[room.ticket]
            self._suspects.discard(room)
            self._subscriber.unsubscribe(self._bus.keys.events(room.ticket))
            metrics.ROOMS.set(len(self._rooms))

    def close(self) -> None:
        """End all repairs and openings under way."""
        self.hold_nothing()
        for room in list(self._rooms.values()):
            for task in (room.opening, room.repairing):
                if task is not None:
                    task.cancel()
            if room.linger is not None:
                room.linger.cancel()

    async def everything(self) -> Everything:
        """Return the feed of all tickets, subscribed. Raises Unavailable."""
        async with self._everything_lock:
            if self._everything is None:
                feed = Everything(self._ticker)
                try:
                    async with asyncio.timeout(self._settings.open_seconds):
                        await self._subscriber.subscribe(self._bus.keys.events("*"), feed, pattern=True)
                except TimeoutError as exc:
                    raise Unavailable("Redis did not confirm the subscription to every ticket") from exc
                self._everything = feed
        return self._everything

    # --- repairs

    def repair(self, room: Room, cause: str) -> None:
        """Bring the room up to its log. Called as often as anybody likes: one at a time runs."""
        if cause == "resubscribed":
            # All rooms at once after a lost connection: their positions are compared in bulk first.
            self._suspects.add(room)
            self._suspicion.set()
        elif room.repairing is None:
            metrics.REPAIRS.labels(cause).inc()
            room.repairing = self._group.create_task(self._repair(room), name="repair")

    async def catch_up(self, room: Room) -> None:
        """Bring the room up to its log and return when it is, or cannot be for now."""
        room.missed = True
        self.repair(room, "ahead")
        if room.repairing is not None:
            async with asyncio.timeout(self._settings.open_seconds):
                await asyncio.shield(room.repairing)

    async def _repair(self, room: Room) -> None:
        attempt = 0
        try:
            while room.missed and self._rooms.get(room.ticket) is room:
                room.missed = False
                try:
                    await self._read_on(room)
                    attempt = 0
                except Exception as exc:  # one broken ticket must not end the node for all others
                    room.missed = True
                    if attempt == 0:
                        metrics.OUTAGES.inc()
                        fault = None if isinstance(exc, Unavailable) else exc
                        log.warning("repair waits", extra={"ticket": room.ticket, "reason": str(exc)}, exc_info=fault)
                    await asyncio.sleep(backoff(self._rng, attempt))
                    attempt += 1
        finally:
            room.repairing = None

    async def _read_on(self, room: Room) -> None:
        more = True
        while more:
            async with self._repair_turn:
                page = await self._backlog.page_after(room.ticket, room.position, room.seen)
                metrics.REPAIRED.inc(room.take(page))
            more = page.more

    async def check_positions(self) -> None:
        """Compare rooms with their logs, for ever: suspects at once, all of them every few seconds.

        A lost wake-up so costs latency, never a message. A log that ends before our position has lost its tail;
        that is for the workers to put back, and going backwards would only repeat messages.
        """
        while True:
            try:
                async with asyncio.timeout(self._settings.position_check_seconds):
                    await self._suspicion.wait()
                self._suspicion.clear()
                rooms, self._suspects = list(self._suspects), set()
                cause = "resubscribed_behind"
            except TimeoutError:
                rooms, cause = list(self._rooms.values()), "position"
            rooms = [room for room in rooms if room.is_open and self._rooms.get(room.ticket) is room]
            try:
                newest = await self._tops(rooms)
            except Unavailable:
                if cause != "position":
                    self._suspects.update(rooms)
                    asyncio.get_running_loop().call_later(backoff(self._rng, 2), self._suspicion.set)
                continue
            for room, top in zip(rooms, newest, strict=True):
                if top > room.position:
                    room.missed = True
                    self.repair(room, cause)

    async def _tops(self, rooms: list[Room]) -> list[MessageId]:
        try:
            return await tops(self._bus, [room.ticket for room in rooms])
        except Unavailable:
            raise
        except Exception as exc:
            # One broken log (another type's key) spoils the whole answer: look which.
            if len(rooms) == 1:
                log.warning("log cannot be read", extra={"ticket": rooms[0].ticket, "reason": str(exc)})
                return [ZERO]
            half = len(rooms) // 2
            return [*await self._tops(rooms[:half]), *await self._tops(rooms[half:])]


@asynccontextmanager
async def open_rooms(
    bus: Bus, subscriber: Subscriber, backlog: Backlog, settings: DeliverySettings
) -> AsyncIterator[Rooms]:
    """Rooms for as long as the block; their tasks end with it, and a fault in one ends the block."""
    async with asyncio.TaskGroup() as group:
        rooms = Rooms(bus, subscriber, backlog, settings, group)
        checks = group.create_task(rooms.check_positions(), name="position check")
        try:
            yield rooms
        finally:
            checks.cancel()
            rooms.close()
