"""Raw connections for thousands of readers: a handshake, then frames or chunks found by their place in the bytes."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

from websockets.frames import Close, Frame, Opcode

from tests.servers import missing

_TEXT, _CLOSE, _PING, _PONG = 0x81, 0x88, 0x89, 0x8A


class Owner(Protocol):
    """Whose connection it is."""

    @property
    def streams(self) -> bool:
        """Whether chunks of HTTP come instead of frames."""

    def arrived(self, arrival: Socket) -> None:
        """The handshake is over."""

    def take(self, data: bytes, start: int, end: int) -> None:
        """Take the text frame that lies in *data*."""

    def take_chunk(self, data: bytes, start: int, end: int) -> None: ...

    def told_to_close(self, code: int) -> None: ...

    def lost(self, victim: Socket) -> None: ...

    def fault(self, what: str) -> None: ...


@contextmanager
def open_files(count: int) -> Iterator[None]:
    """Allow this process and those it starts *count* open files. Forbidden: a failure in CI, a skip elsewhere."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        missing(f"the hard limit of open files is {hard}, {count} are needed (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def masked(opcode: Opcode, payload: bytes, *, fin: bool = True) -> bytes:
    """A client's frame."""
    return Frame(opcode, payload, fin).serialize(mask=True)


def text(**fields: Any) -> bytes:
    """A client's frame of the protocol."""
    return masked(Opcode.TEXT, json.dumps(fields).encode())


def handshake(path: str, *headers: str) -> bytes:
    """A request for a WebSocket, with *headers* beyond those that it takes."""
    lines = [
        f"GET {path} HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", *headers, "", "",
    ]  # fmt: skip
    return "\r\n".join(lines).encode()


class Refused(OSError):
    """A handshake was answered, but not as hoped."""


class Socket(asyncio.Protocol):
    """One connection of a reader."""

    def __init__(self, reader: Owner, hello: bytes) -> None:
        self._reader = reader
        self._hello = hello
        self._left = b""
        self._head = True  # of the answer, still to come
        self.up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport
        self.stale = False  # the reader has another one by now, or is gone

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        self.transport.write(self._hello)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.up.done():
            self.up.set_exception(Refused("closed during the handshake"))
        elif not self.stale:
            self._reader.lost(self)

    def data_received(self, data: bytes) -> None:
        if self._left:
            data = self._left + data
        if self._head:
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                self._left = head
                return
            self._left = b""
            if not head.startswith((b"HTTP/1.1 101", b"HTTP/1.1 200")):
                if not self.up.done():
                    self.up.set_exception(Refused(head.partition(b"\r\n")[0].decode()))
                self.transport.close()
                return
            self._head = False
            self._reader.arrived(self)
            self.up.set_result(None)
        if self.stale:
            return
        self._left = self._chunks(data) if self._reader.streams else self._frames(data)

    def _frames(self, data: bytes) -> bytes:
        """Take all whole frames of *data*; return the rest."""
        at, reader = 0, self._reader
        while len(data) - at >= 2:
            size, start = data[at + 1], at + 2
            if size >= 126:
                wide = 2 if size == 126 else 8
                if len(data) < start + wide:
                    break
                size, start = int.from_bytes(data[start : start + wide], "big"), start + wide
            end = start + size
            if len(data) < end:
                break
            kind = data[at]
            if kind == _TEXT:
                reader.take(data, start, end)
            elif kind == _PING:
                self.transport.write(masked(Opcode.PONG, data[start:end]))
            elif kind == _CLOSE:
                reader.told_to_close(Close.parse(data[start:end]).code if size else 1005)
                self.transport.write(masked(Opcode.CLOSE, data[start:end]))
                self.transport.close()
                return b""
            elif kind != _PONG:
                reader.fault(f"a frame begins with {kind:#x}")
            at = end
        return data[at:]

    def _chunks(self, data: bytes) -> bytes:
        """The same for the chunks of a stream."""
        at = 0
        while (start := data.find(b"\r\n", at)) >= 0:
            size = int(data[at:start], 16)
            end = start + 2 + size
            if len(data) < end + 2:
                break
            if not size:
                self.transport.close()
                return b""
            self._reader.take_chunk(data, start + 2, end)
            at = end + 2
        return data[at:]

    def leave(self, goodbye: bytes = b"") -> None:
        """Take nothing more from this connection, and close it."""
        self.stale = True
        if not self.transport.is_closing():
            if goodbye:
                self.transport.write(goodbye)
            self.transport.close()
