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
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol, cast

import hiredis
from redis.asyncio.connection import AbstractConnection

from ticketwire.bus.bus import Bus
from ticketwire.bus.connection import Node, close, pack
from ticketwire.errors import Unavailable

log = logging.getLogger(__name__)

BACKOFF_BASE_S = 0.05
BACKOFF_CAP_S = 2.0

_OPPOSITE = {"subscribe": "unsubscribe", "ssubscribe": "sunsubscribe", "psubscribe": "punsubscribe"}


class Listener(Protocol):
    """Whoever wants a channel's messages. Neither call may block or raise."""

    def on_message(self, payload: str) -> None:
        """A message; bytes that are not UTF-8 stand as lone surrogates."""

    def on_missed(self) -> None:
        """The channel was subscribed anew: messages before this call may have been missed, later ones are not."""


class _Want:
    """A channel somebody wants, and how far its subscription has come."""

    __slots__ = ("channel", "confirmed", "kind", "link", "listener", "waiting")

    def __init__(self, kind: str, channel: str, listener: Listener) -> None:
        self.kind = kind
        self.channel = channel
        self.listener = listener
        self.link: _Link | None = None
        self.confirmed = False  # at least once
        self.waiting: asyncio.Future[None] | None = asyncio.get_running_loop().create_future()


class Subscriber:
    """All subscriptions of one process. Use `open_subscriber`."""

    def __init__(self, bus: Bus, rng: random.Random | None = None) -> None:
        self._bus = bus
        self._rng = rng or random.Random()
        self._wants: dict[str, _Want] = {}
        self._links: dict[Node, _Link] = {}
        self._homeless: list[_Want] = []  # whose server must be looked up
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
        want = self._wants[channel] = _Want(kind, channel, listener)
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

    def _route_again(self, want: _Want) -> None:
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

    def _link_for(self, node: Node) -> _Link:
        if node not in self._links:
            assert self._group is not None
            link = self._links[node] = _Link(self, node)
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

    def confirmed(self, want: _Want) -> None:
        if self._wants.get(want.channel) is not want:
            return
        again, want.confirmed = want.confirmed, True
        if want.waiting is not None and not want.waiting.done():
            want.waiting.set_result(None)
        if again:
            want.listener.on_missed()

    def refused(self, want: _Want, error: Exception) -> None:
        """The server does not serve this channel (MOVED, CLUSTERDOWN, LOADING …): look up who does."""
        want.link = None
        if self._wants.get(want.channel) is not want:
            return
        log.info("subscription refused", extra={"channel": want.channel, "reason": str(error)})
        self._moved = True
        # Not at once: while a Cluster reshapes itself every answer is the same.
        asyncio.get_running_loop().call_later(self.backoff(3), self._route_again, want)

    def pushed_out(self, link: _Link, channel: str) -> None:
        """The server ended a subscription by itself: the slot has moved."""
        want = self._wants.get(channel)
        if want is not None and want.link is link:
            want.link = None
            self._moved = True
            self._route_again(want)

    def gone(self, link: _Link, node: Node, homeless: list[_Want]) -> None:
        """A server that could not be reached: others may serve its channels now."""
        del self._links[node]
        self._moved = True
        for want in homeless:
            want.link = None
            self._route_again(want)


class _Link(asyncio.Protocol):
    """The connection to one server, and what is subscribed on it."""

    def __init__(self, owner: Subscriber, node: Node) -> None:
        self._owner = owner
        self._node = node
        self._wants: dict[str, _Want] = {}
        # What was asked and not answered yet, in order: replies of RESP2 carry no other reference.
        self._asked: deque[tuple[str, _Want]] = deque()
        self._reader = self._new_reader()
        self._connection: AbstractConnection | None = None
        self._transport: asyncio.Transport | None = None
        self._lost = asyncio.Event()
        self.heard_at = time.monotonic()

    @property
    def connected(self) -> bool:
        return self._transport is not None

    @staticmethod
    def _new_reader() -> hiredis.Reader:
        return hiredis.Reader(encoding="utf-8", errors="surrogateescape")

    def take(self, want: _Want) -> None:
        """Subscribe *want* here, now or as soon as the server is back."""
        want.link = self
        self._wants[want.channel] = want
        if self._transport is not None:
            self._ask([(want.kind, want)])

    def give_up(self, want: _Want) -> None:
        if self._wants.get(want.channel) is want:
            del self._wants[want.channel]
            if self._transport is not None:
                self._ask([(_OPPOSITE[want.kind], want)])

    def ping(self) -> None:
        if self._transport is not None:
            self._transport.writelines(pack([("PING",)]))

    def drop(self, reason: str) -> None:
        """Close the connection; `run` opens another one."""
        if self._transport is not None:
            log.warning("subscription connection dropped", extra={"reason": reason})
            self._transport.abort()

    async def run(self) -> None:
        """Connect, subscribe everything, wait for the connection's end, and again."""
        attempt = 0
        outage: float | None = None
        try:
            while True:
                try:
                    await self._connect()
                except Unavailable as exc:
                    if outage is None:
                        outage = time.monotonic()
                        log.warning("subscription connection lost", extra={"reason": exc.detail})
                    await asyncio.sleep(self._owner.backoff(attempt))
                    attempt += 1
                    if self._owner._bus.topology.cluster:
                        # The channels' slots may have another owner by now.
                        self._owner.gone(self, self._node, list(self._wants.values()))
                        return
                    continue
                if outage is not None:
                    log.info("subscription connection is back", extra={"seconds": round(time.monotonic() - outage, 3)})
                    outage, attempt = None, 0
                try:
                    await self._lost.wait()
                finally:
                    await self._disconnect()
                outage = time.monotonic()
                self._owner.reconnects += 1
                log.warning("subscription connection lost", extra={"reason": "closed"})
        finally:
            await self._disconnect()

    async def _connect(self) -> None:
        connection = await self._node.open()
        self._connection = connection
        self._reader = self._new_reader()
        self._asked.clear()
        self._lost.clear()
        self.heard_at = time.monotonic()
        # Nothing is in flight after the handshake, so the transport can change hands. redis-py offers no way to
        # read without a task and a stream of its own in between.
        transport = cast(Any, connection)._writer.transport
        transport.set_protocol(self)
        self._transport = transport
        if transport.is_closing():
            self._lost.set()
        self._ask([(want.kind, want) for want in self._wants.values()])

    async def _disconnect(self) -> None:
        self._transport = None
        if self._connection is not None:
            await close(self._connection)
            self._connection = None

    def _ask(self, commands: list[tuple[str, _Want]]) -> None:
        if not commands or self._transport is None:
            return
        self._asked += commands
        # One command per channel: on Cluster several in one would have to share a slot.
        self._transport.writelines(pack([(kind.upper(), want.channel) for kind, want in commands]))

    # --- asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self.heard_at = time.monotonic()
        reader = self._reader
        reader.feed(data)
        deliver = self._owner.deliver
        try:
            while (reply := reader.gets()) is not False:
                if isinstance(reply, list):
                    kind = reply[0]
                    if kind == "message" or kind == "smessage":
                        deliver(reply[1], reply[2])
                    elif kind == "pmessage":
                        deliver(reply[1], reply[3])
                    elif kind != "pong":
                        self._answered(kind, reply[1])
                elif reply == "PONG":  # while nothing is subscribed
                    continue
                elif isinstance(reply, Exception):
                    self._refused(reply)
                else:
                    raise hiredis.ProtocolError(f"unexpected reply of type {type(reply).__name__}")
        except hiredis.ProtocolError as exc:
            self.drop(f"not RESP: {exc}")

    def _answered(self, kind: str, channel: str) -> None:
        if not self._asked or self._asked[0][0] != kind or self._asked[0][1].channel != channel:
            if kind == "sunsubscribe":
                self._wants.pop(channel, None)
                self._owner.pushed_out(self, channel)
                return
            raise hiredis.ProtocolError(f"{kind} was not asked for")
        _, want = self._asked.popleft()
        if kind in _OPPOSITE:
            self._owner.confirmed(want)

    def _refused(self, error: Exception) -> None:
        if not self._asked:
            self.drop(str(error))
            return
        _, want = self._asked.popleft()
        if self._wants.get(want.channel) is want:
            del self._wants[want.channel]
            self._owner.refused(want, error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._lost.set()


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
