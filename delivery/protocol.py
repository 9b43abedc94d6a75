"""A uvicorn WebSocket protocol whose sockets cost next to nothing while they are idle.

An ASGI application is offered the extension `ticketwire.socket`: after `websocket.accept` it may attach a
`Handler` to the socket and return. From then on there is no task, queue or scope for that socket: frames
arrive as calls, and whoever writes hands over prepared bytes (`wire.text_frame`), the same object for any
number of sockets. An application that attaches nothing talks ordinary ASGI (`conversation.Conversation`).

Memory is bounded in bytes: above `send_mark_bytes` a socket counts as slow (`paused`), at
`send_buffer_bytes` it is closed, and nobody else waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from websockets.frames import Opcode

from delivery import metrics, wire
from delivery.heartbeat import Wheel
from delivery.settings import DeliverySettings
from delivery.sse import Streams
from schemas.problems import PROBLEMS, SERVICE_RESTART
from ticketwire.errors import Unavailable
from ticketwire.lifecycle import open_files_allowed

log = logging.getLogger(__name__)

EXTENSION = "ticketwire.socket"
MOST_CONTROLS = 1_000  # pings and pongs of a client between two heartbeats: they cost time, and nobody else counts them
OTHER_FILES = 256  # that a node needs besides its sockets: requests, Redis, PostgreSQL, newcomers to be refused
FULL_RETRY_S = 5  # what a full node asks newcomers to wait; another node may take them at once


class Handler(Protocol):
    """What an application attaches to a socket. All calls are made by the event loop and must not block."""

    def on_open(self, socket: SocketProtocol) -> None:
        """First of all calls: the socket is this handler's now."""

    def on_text(self, text: str) -> None:
        """A whole text message."""

    def on_bytes(self, data: bytes) -> None:
        """A whole binary message."""

    def on_drained(self) -> None:
        """Unsent bytes are below the mark again."""

    def on_close(self, code: int) -> None:
        """Once: the socket is closing or gone, nothing can be written any more. *code* 1006: without a close frame."""


class Sockets:
    """All sockets of this process: their limits, their count, their heartbeat."""

    def __init__(self, settings: DeliverySettings) -> None:
        self.settings = settings
        self.most = min(settings.max_sockets, max(1, open_files_allowed() - OTHER_FILES))
        self.wheel = Wheel(settings.ping_seconds, settings.pong_seconds)
        self.draining = False
        self.out_of_memory = ""  # why nobody new is taken while memory is above its mark
        self.streams = Streams(settings.ping_seconds)

    @property
    def refusal(self) -> Unavailable | None:
        """Why no socket, stream or long poll can be taken now; None: one can."""
        if self.draining:
            return Unavailable("this node is stopping", "draining")
        if len(self.wheel) + len(self.streams) >= self.most:
            return Unavailable(f"this node has all {self.most} sockets it may have", "node_full", FULL_RETRY_S)
        if self.out_of_memory:
            return Unavailable(self.out_of_memory, "node_full", FULL_RETRY_S)
        return None

    async def beat(self) -> None:
        """Ping sockets and close dead ones until cancelled."""
        while True:
            await asyncio.sleep(self.wheel.turn_s)
            self.wheel.turn()
            metrics.SOCKETS.set(len(self.wheel))

    async def drain(self, seconds: float, but: int | None = None) -> None:
        """Take no new sockets and close all, spread evenly over *seconds*: their clients come back elsewhere.

        Those whose restart code is *but* are left open.
        """
        self.draining = True
        open_ones = [
            member
            for member in self.wheel.members()
            if isinstance(member, SocketProtocol) and member.restart_code != but
        ]
        if not open_ones:
            return
        log.info("closing sockets", extra={"sockets": len(open_ones), "seconds": round(seconds, 1)})
        start = asyncio.get_running_loop().time()
        for number, member in enumerate(open_ones):
            due = start + seconds * number / len(open_ones)
            wait = due - asyncio.get_running_loop().time()
            if wait > 0.005:
                await asyncio.sleep(wait)
            member.restart()


@dataclass(slots=True)
class Waiting:
    """Those who wait until a socket can take more."""

    futures: list[asyncio.Future[None]]


def _drop(_data: bytes) -> None:
    """What a closed socket does with what is written to it."""


class SocketProtocol(asyncio.Protocol):
    """One WebSocket, from its accepted handshake on."""

    __slots__ = (
        "_answer_due", "_controls", "_handler", "_reader", "_registry", "_sockets", "_timer", "_transport", "_waiting",
        "beat", "closing", "deflates", "paused", "restart_code", "spoke", "write",
    )  # fmt: skip

    def __init__(
        self,
        sockets: Sockets,
        registry: set[object],
        transport: asyncio.Transport,
        handler: Handler,
        *,
        deflates: bool = False,
    ) -> None:
        self._sockets = sockets
        self._registry = registry  # uvicorn's set of connections, which it shuts down
        self._transport = transport
        self._handler: Handler | None = handler
        self._reader = wire.FrameReader(sockets.settings.max_frame_bytes, inflates=deflates)
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: Waiting | None = None
        self._answer_due = False
        self._controls = 0  # pings and pongs since the last heartbeat
        self.deflates = deflates  # permessage-deflate was negotiated: frames may be compressed
        self.spoke = -1  # of the heartbeat; -1: not open yet
        self.beat = wire.PING  # what a heartbeat sends
        self.restart_code = SERVICE_RESTART
        self.paused = False  # more than `send_mark_bytes` unsent
        self.closing = False  # nothing but the closing handshake is left
        # Write a prepared frame, or several. A plain call into the transport as long as the socket keeps up.
        self.write: Callable[[bytes], None] = _drop
        registry.add(self)

    def open(self, response: bytes) -> None:
        """Send *response*, which accepts the handshake, and begin."""
        transport, settings = self._transport, self._sockets.settings
        transport.set_write_buffer_limits(high=settings.send_mark_bytes, low=settings.send_mark_bytes // 4)
        transport.write(response)
        self.write = transport.write
        self._sockets.wheel.add(self)
        metrics.SOCKETS.set(len(self._sockets.wheel))

    def attach(self, handler: Handler) -> None:
        """Let *handler* have everything from now on."""
        self._handler = handler
        handler.on_open(self)
        if self.closing:
            self._tell_handler(wire.ABNORMAL)

    # --- writing

    @property
    def buffered(self) -> int:
        """Unsent bytes in this process."""
        return self._transport.get_write_buffer_size()

    def _write_bounded(self, data: bytes) -> None:
        """What `write` is while the socket is slow."""
        if self.buffered + len(data) > self._sockets.settings.send_buffer_bytes:
            self.fail(
                "slow_consumer", f"more than {self._sockets.settings.send_buffer_bytes} bytes wait for this socket"
            )
        else:
            self._transport.write(data)

    async def drained(self) -> None:
        """Wait until the socket can take more, or is closing."""
        while self.paused and not self.closing:
            if self._waiting is None:
                self._waiting = Waiting([])
            future = asyncio.get_running_loop().create_future()
            self._waiting.futures.append(future)
            await future

    def _wake(self) -> None:
        if self._waiting is not None:
            for future in self._waiting.futures:
                if not future.done():
                    future.set_result(None)
            self._waiting = None

    def pause_reading(self) -> None:
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    # --- closing

    def fail(self, code: str, reason: str) -> None:
        """Close for a problem of the table."""
        close = PROBLEMS[code].close
        assert close is not None, f"{code} has no close code"
        self.close(close, reason)

    def restart(self) -> None:
        """Close because this node stops: come back elsewhere."""
        self.close(self.restart_code, "this node restarts")

    def close(self, code: int = wire.NORMAL, reason: str = "") -> None:
        """Send a close frame and wait a while for the answer. May be called again; the first call counts."""
        if self.closing:
            return
        if self.spoke < 0:  # not a WebSocket yet
            self._end_writing()
            self._transport.close()
            self._tell_handler(wire.ABNORMAL)
            return
        self._end_writing()
        metrics.CLOSED.labels(code).inc()
        self._transport.write(wire.close_frame(code, reason))
        # What a stalled client does not take in time is cut off, close frame and all.
        self._cut_later()
        self._tell_handler(code)

    def abort(self) -> None:
        """Cut the connection."""
        self._end_writing()
        self._transport.abort()

    def shutdown(self) -> None:
        """Called by uvicorn when it stops."""
        self.restart()
        self._transport.close()

    def _cut_later(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._sockets.settings.close_seconds, self._transport.abort)

    def _end_writing(self) -> None:
        self.closing = True
        self.write = _drop
        self._wake()
        self._sockets.wheel.remove(self)

    def _tell_handler(self, code: int) -> None:
        handler, self._handler = self._handler, None
        if handler is not None:
            handler.on_close(code)

    # --- heartbeat

    def ping(self) -> None:
        self._answer_due = True
        self._controls = 0
        self.write(self.beat)

    def expect_pong(self) -> None:
        if self._answer_due:
            self.fail("no_pong", f"no sign of life for {self._sockets.settings.pong_seconds:g} s after a ping")

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Never called: the transport comes from the HTTP protocol that read the handshake."""

    def data_received(self, data: bytes) -> None:
        self._answer_due = False  # whatever it is, somebody is there
        try:
            for kind, payload in self._reader.feed(data):
                if kind is Opcode.CLOSE:
                    assert isinstance(payload, bytes)
                    self._closed_by_client(payload)
                    return
                if self.closing:
                    continue
                if kind is Opcode.PING or kind is Opcode.PONG:
                    self._control(kind, payload)
                elif self._handler is None:
                    continue
                elif isinstance(payload, str):
                    self._handler.on_text(payload)
                else:
                    self._handler.on_bytes(payload)
        except wire.Violation as exc:
            self.close(exc.code, exc.reason)
            self._transport.close()

    def _control(self, kind: Opcode, payload: str | bytes) -> None:
        self._controls += 1
        if self._controls > MOST_CONTROLS:
            self.fail("throttled", f"more than {MOST_CONTROLS} pings and pongs within a heartbeat")
        elif kind is Opcode.PING and isinstance(payload, bytes):
            self.write(wire.pong_frame(payload))

    def _closed_by_client(self, payload: bytes) -> None:
        if not self.closing:
            code, answer = wire.close_reply(payload)
            self._end_writing()
            self._transport.write(answer)
            self._cut_later()
            self._tell_handler(code)
        self._transport.close()

    def eof_received(self) -> None:
        """The client went without a close frame; asyncio closes the transport."""

    def pause_writing(self) -> None:
        self.paused = True
        if not self.closing:
            self.write = self._write_bounded

    def resume_writing(self) -> None:
        self.paused = False
        if self.closing:
            return
        self.write = self._transport.write
        self._wake()
        if self._handler is not None:
            self._handler.on_drained()

    def connection_lost(self, exc: Exception | None) -> None:
        self._registry.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.closing:
            self._end_writing()
        self._tell_handler(wire.ABNORMAL)
