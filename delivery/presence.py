"""Who is in which ticket: this node's people, merged by user, and what it tells Redis about them."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Hashable
from dataclasses import dataclass, field

from delivery.replay import backoff
from ticketwire.bus.bus import Bus
from ticketwire.bus.readers import PresenceChange, PresenceView, present
from ticketwire.errors import Unavailable

log = logging.getLogger(__name__)

COLLECT_S = 0.05  # who comes within this time comes in one diff
RENEWALS = 3  # within a lease, so that one that fails costs nothing


@dataclass(slots=True)
class Here:
    """One user in one ticket on this node: all tabs and devices."""

    role: str
    sockets: dict[Hashable, tuple[str, str]] = field(default_factory=dict)  # state and activity of each
    leaving: asyncio.TimerHandle | None = None  # the last socket was lost; the user may come back

    def merged(self, before: tuple[str, str, str] | None) -> tuple[str, str, str] | None:
        """Online if any socket is, replying if any socket is; during the grace as *before*; None when gone."""
        if not self.sockets:
            return before if self.leaving is not None else None
        states, activities = zip(*self.sockets.values(), strict=True)
        state = "online" if "online" in states else "away"
        activity = next((found for found in ("replying", "viewing") if found in activities), "")
        return self.role, state, activity


class Presence:
    """See the module. One call to Redis at a time, which carries everything that waits."""

    def __init__(self, bus: Bus, node: str, *, lease_s: float, grace_s: float) -> None:
        self._bus = bus
        self._node = node
        self._lease = lease_s
        self._grace = grace_s
        self._rng = random.Random()
        self._tickets: dict[str, dict[str, Here]] = {}
        self._told: dict[str, dict[str, tuple[str, str, str]]] = {}  # what Redis has of us
        self._watched: dict[str, int] = {}  # how many sockets look, hidden ones too
        self._dirty: set[str] = set()
        self._asked: dict[str, asyncio.Future[PresenceView]] = {}
        self._wake = asyncio.Event()
        self._renew_at = 0.0

    # --- what sockets say

    def show(self, ticket: str, user: str, role: str, socket: Hashable, state: str, activity: str) -> None:
        """The user is there on *socket*; again with another state or activity: a change."""
        here = self._tickets.setdefault(ticket, {}).setdefault(user, Here(role))
        here.role = role
        here.sockets[socket] = (state, activity)
        self._cancel(here)
        self._changed(ticket)

    def hide(self, ticket: str, user: str, socket: Hashable, *, at_once: bool) -> None:
        """*socket* is gone, or hides. If it was the user's last one here, the user has a grace unless *at_once*."""
        here = self._tickets.get(ticket, {}).get(user)
        if here is None or here.sockets.pop(socket, None) is None:
            return
        if not here.sockets and not at_once and self._grace > 0:
            loop = asyncio.get_running_loop()
            here.leaving = loop.call_later(self._grace, self._gone, ticket, here)
        elif not here.sockets:
            self._cancel(here)
        self._changed(ticket)

    def _gone(self, ticket: str, here: Here) -> None:
        here.leaving = None
        self._changed(ticket)

    @staticmethod
    def _cancel(here: Here) -> None:
        if here.leaving is not None:
            here.leaving.cancel()
            here.leaving = None

    def watch(self, ticket: str) -> None:
        self._watched[ticket] = self._watched.get(ticket, 0) + 1

    def unwatch(self, ticket: str) -> None:
        self._watched[ticket] -= 1
        if not self._watched[ticket]:
            del self._watched[ticket]

    async def snapshot(self, ticket: str) -> PresenceView:
        """Return who is there, this node's newest changes included. Raises Unavailable."""
        future = self._asked.get(ticket)
        if future is None:
            future = self._asked[ticket] = asyncio.get_running_loop().create_future()
            self._wake.set()
        return await asyncio.shield(future)

    def _changed(self, ticket: str) -> None:
        self._dirty.add(ticket)
        self._wake.set()

    # --- what Redis is told

    async def run(self) -> None:
        """Tell Redis of changes soon, and of everybody's being here before the lease ends, until cancelled."""
        loop, attempt = asyncio.get_running_loop(), 0
        self._renew_at = loop.time() + self._lease / RENEWALS
        while True:
            try:
                async with asyncio.timeout_at(self._renew_at):
                    await self._wake.wait()
            except TimeoutError:
                self._dirty.update(self._tickets, self._watched)
                self._renew_at = loop.time() + self._lease / RENEWALS
            if not self._asked:
                await asyncio.sleep(COLLECT_S)
            self._wake.clear()
            try:
                await self._tell()
                attempt = 0
            except Unavailable as exc:
                if attempt == 0:
                    log.warning("presence waits for Redis", extra={"reason": exc.detail})
                await asyncio.sleep(backoff(self._rng, attempt))
                attempt += 1
                self._wake.set()

    async def _tell(self) -> None:
        asked, self._asked = self._asked, {}
        dirty, self._dirty = self._dirty | asked.keys(), set()
        now = {ticket: self._merged(ticket) for ticket in dirty}
        changes = [
            PresenceChange(ticket, ticket in asked, _differences(self._told.get(ticket, {}), now[ticket]))
            for ticket in dirty
        ]
        try:
            views = await present(self._bus, self._node, round(self._lease * 1000), changes)
        except BaseException as exc:
            self._dirty |= dirty - asked.keys()
            self._dirty |= {change.ticket for change in changes if change.users}
            for future in asked.values():
                if not future.done():
                    future.set_exception(exc if isinstance(exc, Unavailable) else Unavailable("this node is stopping"))
                    future.exception()  # whoever asked may have gone: nobody must be blamed for not looking
            raise
        for ticket in dirty:
            told = self._told.get(ticket, {})
            if now[ticket]:
                self._told[ticket] = now[ticket]
            else:
                self._told.pop(ticket, None)
            if not views[ticket].known and told:
                # Redis has lost the ticket's presence: what it was told before must be told again.
                self._told[ticket] = {u: v for u, v in now[ticket].items() if told.get(u) != v}
                self._changed(ticket)
        for ticket, future in asked.items():
            if not future.done():
                future.set_result(views[ticket])

    def _merged(self, ticket: str) -> dict[str, tuple[str, str, str]]:
        """Return this node's people in the ticket, and forget those who have gone."""
        people, told = self._tickets.get(ticket, {}), self._told.get(ticket, {})
        found = {}
        for user, here in list(people.items()):
            value = here.merged(told.get(user))
            if value is not None:
                found[user] = value
            elif not here.sockets and here.leaving is None:
                del people[user]
        if not people:
            self._tickets.pop(ticket, None)
        return found

    def close(self) -> None:
        """Forget all timers. Redis is not told: who reconnects to another node must not seem to have left."""
        for people in self._tickets.values():
            for here in people.values():
                self._cancel(here)


def _differences(
    told: dict[str, tuple[str, str, str]], now: dict[str, tuple[str, str, str]]
) -> dict[str, tuple[str, str, str] | None]:
    changed: dict[str, tuple[str, str, str] | None] = {u: v for u, v in now.items() if told.get(u) != v}
    return changed | {user: None for user in told if user not in now}
