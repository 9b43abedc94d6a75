"""Plain mode: a socket that only listens. `ws://host:8080/?ticket_id=12345[&since=<message id>]`."""

from __future__ import annotations

import time
from collections.abc import Callable

from delivery import metrics
from delivery.protocol import SocketProtocol


def allow(allowed_at: float, now: float, per_minute: int) -> float | None:
    """Pace a sender (GCRA): return the new *allowed_at*, or None when a whole minute's share is used up. Pure."""
    allowed_at = max(allowed_at, now) + 60 / per_minute
    return None if allowed_at > now + 60 else allowed_at


class PlainReader:
    """What a plain socket's client may do: stay, leave, and send text that means nothing.

    Text is ignored and counted, as the tutorial's clients may send some. It costs us time, so more than a
    minute's share of it closes the socket with 4007. A binary frame closes it with 4501.
    """

    __slots__ = ("_allowed_at", "_leave", "_per_minute", "_socket")

    def __init__(self, leave: Callable[[SocketProtocol], None], per_minute: int) -> None:
        self._leave = leave  # called once, at the end
        self._per_minute = per_minute
        self._allowed_at = 0.0
        self._socket: SocketProtocol | None = None

    def on_open(self, socket: SocketProtocol) -> None:
        self._socket = socket

    def on_text(self, text: str) -> None:
        metrics.IGNORED.inc()
        allowed_at = allow(self._allowed_at, time.monotonic(), self._per_minute)
        if allowed_at is not None:
            self._allowed_at = allowed_at
        elif self._socket is not None:
            self._socket.fail("throttled", f"plain sockets may send {self._per_minute} frames a minute")

    def on_bytes(self, data: bytes) -> None:
        if self._socket is not None:
            self._socket.fail("bad_request", "binary frames are not accepted here")

    def on_drained(self) -> None:
        """A replay waits for the socket itself."""

    def on_close(self, code: int) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            self._leave(socket)
