"""A strict reader of one ticket; see `crowd`."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from typing import TYPE_CHECKING, Any, Literal

from websockets.frames import Close, Opcode

from schemas.frames import SUBPROTOCOL
from schemas.message_id import MessageId
from tests.integration.delivery.raw import Socket, handshake, masked, text

if TYPE_CHECKING:
    from tests.integration.delivery.crowd import Crowd

Kind = Literal["v1", "plain", "sse"]
BACKOFF_S, BACKOFF_CAP_S = 0.2, 3.0
QUIET_ACK_S = 0.2  # after a quiet time the first event is acknowledged this soon (docs/protocol.md)

_V1 = re.compile(rb'\{"type":"message","prev_id":"([^"]+)","ticket_id":"[^"]*","message_id":"([^"]+)"')
_PLAIN = re.compile(rb'\{"ticket_id":"[^"]*","message_id":"([^"]+)"')
_SSE = re.compile(rb"id: ([0-9-]+)\ndata: ")
_SMALL_BYTES = 4_096  # of the kernel's receive buffer: who stops reading is felt at the other end at once
_GOODBYE = masked(Opcode.CLOSE, Close(1000, "").serialize())


class Reader:
    """Reads one ticket, through as many connections as it takes."""

    def __init__(
        self,
        crowd: Crowd,
        kind: Kind,
        ticket: str,
        user: str,
        *,
        device: str = "",
        since: str | None = "0-0",
        small: bool = False,
    ) -> None:
        """*small*: with a small receive buffer."""
        self.crowd = crowd
        self.kind: Kind = kind
        self.ticket = ticket
        self.user = user
        self.device = device
        self.small = small
        self.since = since  # where its connections go on
        self.at = since  # the position of v1: what the next event's prev_id must be
        self.got: list[str] = []
        self.repeats = 0  # where it came back without its position
        self.resumed: list[str] = []
        self.codes: list[int] = []  # by which its sockets were closed
        self.errors: list[str] = []
        self.asked_to_move = 0
        self.connections = 0
        self.socket: Socket | None = None
        self.gone = False
        self._opening: asyncio.Task[None] | None = None
        self._unacked = self._unacked_bytes = 0
        self._acked_at = 0.0
        self._ack_timer: asyncio.TimerHandle | None = None

    @property
    def streams(self) -> bool:
        return self.kind == "sse"

    @property
    def live(self) -> bool:
        """Connected, and told where its stream begins."""
        return self.socket is not None and (self.kind != "v1" or len(self.resumed) == self.connections)

    # --- coming and going

    def come(self, delay_s: float = 0.0) -> None:
        """Open a connection; the one before it is left when that is up."""
        self.gone = False
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open(delay_s))

    async def _open(self, delay_s: float) -> None:
        crowd, attempt = self.crowd, 0
        try:
            await asyncio.sleep(delay_s)
            while not self.gone:
                try:
                    async with crowd.doors:
                        await self._connect(*crowd.address(self))
                    return
                except OSError:
                    crowd.refusals += 1
                await asyncio.sleep(crowd.rng.uniform(0, min(BACKOFF_CAP_S, BACKOFF_S * 2**attempt)))
                attempt += 1
        finally:
            self._opening = None

    async def _connect(self, host: str, port: int) -> None:
        since = f"&since={self.since}" if self.since is not None else ""
        if self.kind == "v1":
            hello = handshake("/", f"Sec-WebSocket-Protocol: {SUBPROTOCOL}")
        elif self.kind == "plain":
            hello = handshake(f"/?ticket_id={self.ticket}{since}")
        else:
            last = f"Last-Event-ID: {self.since}\r\n" if self.since is not None else ""
            hello = f"GET /sse/{self.ticket} HTTP/1.1\r\nHost: crowd\r\n{last}\r\n".encode()
        loop = asyncio.get_running_loop()
        connection = socket.socket()
        try:
            connection.setblocking(False)
            if self.small:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BYTES)
            await loop.sock_connect(connection, (host, port))
            _, made = await loop.create_connection(lambda: Socket(self, hello), sock=connection)
        except BaseException:
            connection.close()
            raise
        await made.up

    def arrived(self, arrival: Socket) -> None:
        """It is this reader's socket from now on."""
        if self.gone:
            arrival.leave()
            return
        old, self.socket = self.socket, arrival
        self.connections += 1
        if self.kind != "v1":
            return
        if old is not None:  # first of all: what it brings from now on comes here as well
            old.leave(_GOODBYE)
        self._forget_acks()
        device = {"device": self.device} if self.device else {}
        self.say(type="connect", user=self.user, resume={self.ticket: self.since}, **device)

    def lost(self, victim: Socket) -> None:
        if victim is self.socket:
            self.socket = None
            self._forget_acks()
            if not self.gone:
                self.come(self.crowd.rng.uniform(0, BACKOFF_S))

    def told_to_close(self, code: int) -> None:
        self.codes.append(code)
        if 4500 <= code < 5000:
            self.gone = True
            self.fault(f"closed with {code}")

    def leave(self) -> None:
        """Go, with a goodbye."""
        self.gone = True
        if self._opening is not None:
            self._opening.cancel()
        if self.socket is not None:
            self.acknowledge()
            goodbye = b"" if self.kind == "sse" else _GOODBYE
            self.socket.leave(goodbye)
            self.socket = None
        self._forget_acks()

    def stop_reading(self) -> None:
        """Leave everything in the kernel's buffers, and answer nothing."""
        assert self.socket is not None
        self.socket.transport.pause_reading()

    def read_on(self) -> None:
        if self.socket is not None and not self.socket.transport.is_closing():
            self.socket.transport.resume_reading()

    def forget_position(self) -> None:
        """Be a page that was loaded anew: only the server knows where this device is."""
        self.since = self.at = None

    def fault(self, what: str) -> None:
        self.crowd.faults.append(f"{self.kind} {self.user} in {self.ticket} at {self.at}: {what}")

    # --- what comes

    def take(self, data: bytes, start: int, end: int) -> None:
        if self.kind == "plain":
            found = _PLAIN.match(data, start, end)
            assert found is not None, data[start:end]
            self._got(self.crowd.name(found[1]))
            return
        found = _V1.match(data, start, end)
        if found is None:
            self._other(json.loads(data[start:end]))
            return
        prev, at = self.crowd.name(found[1]), self.crowd.name(found[2])
        if prev != self.at:
            self.fault(f"{at} follows {prev}")
        self.at = at
        self._got(at)
        self._unacked += 1
        self._unacked_bytes += end - start
        if self._unacked * 2 >= self.crowd.window or self._unacked_bytes * 2 >= self.crowd.window_bytes:
            self.acknowledge()
        elif self._ack_timer is None:
            loop = asyncio.get_running_loop()
            due = max(loop.time() + QUIET_ACK_S, self._acked_at + self.crowd.ack_s)
            self._ack_timer = loop.call_at(due, self.acknowledge)

    def take_chunk(self, data: bytes, start: int, end: int) -> None:
        found = _SSE.match(data, start, end)
        if found is not None:
            self._got(self.crowd.name(found[1]))
        elif data.startswith(b"event: reset", start):
            self.resumed.append("reset")

    def _got(self, at: str) -> None:
        if self.got and MessageId.parse(at) <= MessageId.parse(self.got[-1]):
            self.repeats += 1
            if self.since is not None:
                self.fault(f"{at} came after {self.got[-1]}")
            return
        self.got.append(at)
        self.since = at

    def _other(self, frame: dict[str, Any]) -> None:
        kind = frame["type"]
        if kind == "connected":
            self.crowd.window, self.crowd.window_bytes = frame["ack_window"], frame["ack_bytes"]
            self.crowd.ack_s = frame["ack_ms"] / 1000
        elif kind == "subscribed":
            self.resumed.append(frame["resume"])
            self.at = frame["position"]
        elif kind == "caught_up":
            if MessageId.parse(frame["position"]) < MessageId.parse(self.at or "0-0"):
                self.fault(f"caught up at {frame['position']}")
            self.at = frame["position"]
            self.since = self.since or self.at
        elif kind == "ping":
            self.say(type="pong")
        elif kind == "reconnect":
            self.asked_to_move += 1
            self.acknowledge()
            self.come(self.crowd.rng.uniform(0, frame["within_ms"] / 1000))
        elif kind == "error":
            self.errors.append(frame["code"])
            if not frame["temporary"]:
                self.fault(f"error {frame['code']}: {frame['message']}")

    # --- what it says

    def say(self, **frame: Any) -> None:
        assert self.socket is not None
        self.socket.transport.write(text(**frame))

    def acknowledge(self) -> None:
        unacked = self._unacked
        self._forget_acks()
        if unacked and self.socket is not None:
            self._acked_at = asyncio.get_running_loop().time()
            self.say(type="ack", ticket_id=self.ticket, position=self.at)

    def _forget_acks(self) -> None:
        self._unacked = self._unacked_bytes = 0
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
