"""The Pub/Sub connection to one Redis server: raw RESP2, read without a task or a queue per message."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import Any, Protocol, cast

import hiredis
from redis.asyncio.connection import AbstractConnection

from ticketwire.bus.connection import Node, close, pack
from ticketwire.errors import Unavailable

log = logging.getLogger(__name__)

_OPPOSITE = {"subscribe": "unsubscribe", "ssubscribe": "sunsubscribe", "psubscribe": "punsubscribe"}


class Listener(Protocol):
    """Whoever wants a channel's messages. Neither call may block or raise."""

    def on_message(self, payload: str) -> None:
        """A message; bytes that are not UTF-8 stand as lone surrogates."""

    def on_missed(self) -> None:
        """The channel was subscribed anew: messages before this call may have been missed, later ones are not."""


class Want:
    """A channel somebody wants, and how far its subscription has come."""

    __slots__ = ("channel", "confirmed", "kind", "link", "listener", "waiting")

    def __init__(self, kind: str, channel: str, listener: Listener) -> None:
        self.kind = kind
        self.channel = channel
        self.listener = listener
        self.link: Link | None = None
        self.confirmed = False  # at least once
        self.waiting: asyncio.Future[None] | None = asyncio.get_running_loop().create_future()


class LinkOwner(Protocol):
    """Whom a link tells of what it hears."""

    def deliver(self, channel: str, payload: str) -> None: ...
    def confirmed(self, want: Want) -> None: ...
    def refused(self, want: Want, error: Exception) -> None: ...
    def pushed_out(self, link: Link, channel: str) -> None: ...
    def lost(self, link: Link) -> None: ...
    def gone(self, link: Link, node: Node, homeless: list[Want]) -> bool: ...
    def backoff(self, attempt: int) -> float: ...


class Link(asyncio.Protocol):
    """The connection to one server, and what is subscribed on it."""

    def __init__(self, owner: LinkOwner, node: Node) -> None:
        self._owner = owner
        self._node = node
        self._wants: dict[str, Want] = {}
        # What was asked and not answered yet, in order: replies of RESP2 carry no other reference.
        self._asked: deque[tuple[str, Want]] = deque()
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

    def take(self, want: Want) -> None:
        """Subscribe *want* here, now or as soon as the server is back."""
        want.link = self
        self._wants[want.channel] = want
        if self._transport is not None:
            self._ask([(want.kind, want)])

    def give_up(self, want: Want) -> None:
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
                    if self._owner.gone(self, self._node, list(self._wants.values())):
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
                self._owner.lost(self)
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

    def _ask(self, commands: list[tuple[str, Want]]) -> None:
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
