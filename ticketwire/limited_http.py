"""uvicorn's HTTP, which times no request out and bounds no header, with both; and an answer is one write."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

MAX_HEAD_BYTES = 16_384
HEAD_SECONDS = 10.0


class _HeadTooLarge(Exception):
    """Raised through the parser, which turns it into its own error."""


class Joined:
    """Sends the head of an answer together with what follows it in the same tick of the event loop.

    uvicorn writes them one after the other, each a system call of its own, which were a tenth of a request's time.
    """

    __slots__ = ("_held", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: bytes | None = b""  # None: what came first is sent, and nothing is held any more

    def write(self, data: bytes) -> None:
        if self._held is None:
            self._transport.write(data)
        elif self._held:
            self._transport.write(self._held + data)
            self._held = None
        else:
            self._held = data
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        held, self._held = self._held, None
        if held:
            self._transport.write(held)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


class LimitedHttp(HttpToolsProtocol):
    """Refuses a request whose head is too large (431) or not complete in time (408). Give it to uvicorn as `http`."""

    max_head_bytes = MAX_HEAD_BYTES
    head_seconds = HEAD_SECONDS
    joins = True  # not for who writes to the transport itself

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head_timer: asyncio.TimerHandle | None = None
        self._fed_bytes = 0  # since the request began; the parser keeps an unfinished header to itself
        self._head_bytes = 0  # request line and headers parsed
        self._in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._time_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.parser is None:
            return  # closing after an upgrade that was refused
        super().data_received(data)
        self._fed_bytes += len(data)
        if self._in_head and self._fed_bytes > self.max_head_bytes:
            self._refuse_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes, self._fed_bytes = True, 0, 0
        if self._head_timer is None:
            self._time_head()  # the next request of a kept connection

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._measure(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._measure(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        before = self.cycle
        super().on_headers_complete()
        # Not for HEAD, whose answer has no body to wait for. No new cycle: an upgrade.
        if self.joins and self.cycle is not None and self.cycle is not before and self.scope["method"] != "HEAD":
            self.cycle.transport = Joined(self.transport, self.loop)  # type: ignore[assignment]  # all of it that is used

    def _measure(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.max_head_bytes:
            raise _HeadTooLarge

    def _time_head(self) -> None:
        sentence = f"no complete request within {self.head_seconds:g} s"
        self._head_timer = self.loop.call_later(self.head_seconds, self._refuse, HTTPStatus.REQUEST_TIMEOUT, sentence)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def send_400_response(self, msg: str) -> None:
        if self._head_bytes > self.max_head_bytes:
            self._refuse_head()
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, "the request is not HTTP/1.1")

    def _refuse_head(self) -> None:
        sentence = f"the request's head is larger than {self.max_head_bytes} bytes"
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, sentence)

    def _refuse(self, status: int, sentence: str, *headers: tuple[bytes, bytes]) -> None:
        if not self.transport.is_closing():
            body = json.dumps({"error": sentence}).encode()
            write_response(self.transport, status, [(b"content-type", b"application/json"), *headers], body)


def write_response(transport: asyncio.Transport, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """Answer with a whole HTTP/1.1 response and close."""
    lines = [f"HTTP/1.1 {int(status)} {HTTPStatus(status).phrase}".encode()]
    lines += [name + b": " + value for name, value in headers if name.lower() not in (b"connection", b"content-length")]
    lines += [b"connection: close", b"content-length: %d" % len(body)]
    transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
    transport.close()
