"""Pub/Sub over raw RESP2: channels kept subscribed through lost connections, failovers and moved slots.

One connection per Redis server. redis-py opens it (TLS, AUTH, Sentinel, Cluster); from then on its bytes come
straight to a protocol of ours: no task and no queue per message, and all messages of one read are handled before
the event loop goes round, so that a reader can join them in one write.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ticketwire.bus.bus import Bus
from ticketwire.bus.connection import Node
from ticketwire.bus.subscription_link import Link, Listener, Want
from ticketwire.errors import Unavailable

log = logging.getLogger(__name__)

BACKOFF_BASE_S = 0.05
BACKOFF_CAP_S = 2.0


class Subscriber:
    """All subscriptions of one process. Use `open_subscriber`."""

    def __init__(self, bus: Bus, rng: random.Random | None = None) -> None:
        self._bus = bus
        self._rng = rng or random.Random()
        self._wants: dict[str, Want] = {}
        self._links: dict[Node, Link] = {}
        self._homeless: list[Want] = []  # whose server must be looked up
        self._moved = False  # the last answer was MOVED: ask the Cluster again first
        self._wake = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self.reconnects = 0

    async def subscribe(self, channel: str, listener: Listener, *, pattern: bool = False, sharded: bool = True) -> None:
        """Subscribe and return when the server has confirmed it; a channel has one listener.

        *sharded* says that the channel is published with SPUBLISH where the server has it. Waits as long as
        Redis is away: limit it with `asyncio.timeout`. When cancelled, the channel is given up again.
        """
        if channel in self._wants:
            raise RuntimeError(f"{channel} is subscribed already")
        kind = "subscribe"
        if pattern:
            kind = "psubscribe"
        elif sharded and self._bus.features.sharded_pubsub:
            kind = "ssubscribe"
        want = self._wants[channel] = Want(kind, channel, listener)
        assert want.waiting is not None
        self._route_again(want)
        try:
            await want.waiting
        except BaseException:
            self.unsubscribe(channel)
            raise
        want.waiting = None

    def unsubscribe(self, channel: str) -> None:
        """Give a channel up: its listener is not called any more."""
        want = self._wants.pop(channel, None)
        if want is not None and want.link is not None:
            want.link.give_up(want)

    @property
    def connected(self) -> bool:
        """Whether every server that is needed is connected."""
        return bool(self._links) and all(link.connected for link in self._links.values())

    def ping(self, silent_s: float) -> None:
        """Ask every server for a sign of life, and drop connections that gave none for *silent_s* seconds.

        Call it more often than that. What is dropped comes back by itself.
        """
        now = time.monotonic()
        for link in self._links.values():
            if link.connected and now - link.heard_at > silent_s:
                link.drop(f"silent for {now - link.heard_at:.1f} s")
            else:
                link.ping()

    def reconnect(self, channel: str, reason: str) -> None:
        """Drop the connection that should bring *channel*'s messages and does not."""
        want = self._wants.get(channel)
        if want is not None and want.link is not None:
            want.link.drop(reason)

    async def run(self) -> None:
        """Keep everything subscribed until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            await self._route()

    # --- routing

    def _route_again(self, want: Want) -> None:
        self._homeless.append(want)
        self._wake.set()

    async def _route(self) -> None:
        """Give every homeless channel to the connection of its server."""
        attempt = 0
        while True:
            await self._wake.wait()
            self._wake.clear()
            homeless, self._homeless = self._homeless, []
            try:
                if self._moved:
                    await self._bus.topology.refresh()
                    self._moved = False
                for want in homeless:
                    if self._wants.get(want.channel) is want:
                        self._link_for(await self._bus.topology.node_for(want.channel)).take(want)
                attempt = 0
            except Unavailable as exc:
                if attempt == 0:
                    log.warning("subscriptions wait for Redis", extra={"reason": exc.detail})
                self._homeless += [want for want in homeless if want.link is None]
                await asyncio.sleep(self.backoff(attempt))
                attempt += 1
                self._wake.set()

    def _link_for(self, node: Node) -> Link:
        if node not in self._links:
            assert self._group is not None
            link = self._links[node] = Link(self, node)
            self._group.create_task(link.run(), name="subscriptions")
        return self._links[node]

    def backoff(self, attempt: int) -> float:
        """Full jitter, so that nodes that lost Redis together do not come back together."""
        return self._rng.uniform(0, min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2 ** min(attempt, 10)))

    # --- called by links

    def deliver(self, channel: str, payload: str) -> None:
        want = self._wants.get(channel)
        if want is not None:
            want.listener.on_message(payload)

    def confirmed(self, want: Want) -> None:
        if self._wants.get(want.channel) is not want:
            return
        again, want.confirmed = want.confirmed, True
        if want.waiting is not None and not want.waiting.done():
            want.waiting.set_result(None)
        if again:
            want.listener.on_missed()

    def refused(self, want: Want, error: Exception) -> None:
        """The server does not serve this channel (MOVED, CLUSTERDOWN, LOADING …): look up who does."""
        want.link = None
        if self._wants.get(want.channel) is not want:
            return
        log.info("subscription refused", extra={"channel": want.channel, "reason": str(error)})
        self._moved = True
        # Not at once: while a Cluster reshapes itself every answer is the same.
        asyncio.get_running_loop().call_later(self.backoff(3), self._route_again, want)

    def pushed_out(self, link: Link, channel: str) -> None:
        """The server ended a subscription by itself: the slot has moved."""
        want = self._wants.get(channel)
        if want is not None and want.link is link:
            want.link = None
            self._moved = True
            self._route_again(want)

    def lost(self, link: Link) -> None:
        self.reconnects += 1

    def gone(self, link: Link, node: Node, homeless: list[Want]) -> bool:
        """A server could not be reached. True on Cluster: others may serve its channels now, so the link ends."""
        if not self._bus.topology.cluster:
            return False
        del self._links[node]
        self._moved = True
        for want in homeless:
            want.link = None
            self._route_again(want)
        return True


@asynccontextmanager
async def open_subscriber(bus: Bus, rng: random.Random | None = None) -> AsyncIterator[Subscriber]:
    """Run a Subscriber for as long as the block; an error inside it ends the block."""
    subscriber = Subscriber(bus, rng)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(subscriber.run(), name="subscriber")
        try:
            yield subscriber
        finally:
            task.cancel()
