"""From an HTTP request to a WebSocket: uvicorn's HTTP protocol with limits, and the handshake (RFC 6455, 4.2)."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any, cast
from urllib.parse import unquote

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState
from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.server import ServerProtocol

from delivery import metrics
from delivery.conversation import Conversation, deny
from delivery.protocol import Sockets

_quiet = logging.getLogger("websockets.server")


class _HeadTooLarge(Exception):
    """Raised through the parser, which turns it into its own error."""


class UpgradingHttp(HttpToolsProtocol):
    """uvicorn's HTTP, which times no request out and bounds no header, with both; upgrades come to us.

    Give it to uvicorn as `http=functools.partial(UpgradingHttp, sockets)`.
    """

    def __init__(
        self,
        sockets: Sockets,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._sockets = sockets
        self._head_timer: asyncio.TimerHandle | None = None
        self._fed_bytes = 0  # since the request began; the parser keeps an unfinished header to itself
        self._head_bytes = 0  # request line and headers parsed
        self._in_head = True

    # --- limits

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
        if self._in_head and self._fed_bytes > self._sockets.settings.max_header_bytes:
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
        super().on_headers_complete()

    def _measure(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._sockets.settings.max_header_bytes:
            raise _HeadTooLarge

    def _time_head(self) -> None:
        seconds = self._sockets.settings.handshake_seconds
        self._head_timer = self.loop.call_later(seconds, self._refuse, 408, f"no complete request within {seconds:g} s")

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def send_400_response(self, msg: str) -> None:
        if self._head_bytes > self._sockets.settings.max_header_bytes:
            self._refuse_head()
        else:
            self._refuse(400, "the request is not HTTP/1.1")

    def _refuse_head(self) -> None:
        self._refuse(431, f"the request's head is larger than {self._sockets.settings.max_header_bytes} bytes")

    def _refuse(self, status: int, sentence: str, *headers: tuple[bytes, bytes]) -> None:
        if not self.transport.is_closing():
            body = json.dumps({"error": sentence}).encode()
            deny(self.transport, status, [(b"content-type", b"application/json"), *headers], body)

    # --- the handshake

    def handle_websocket_upgrade(self) -> None:
        self.connections.discard(self)
        # Break the cycle between parser and protocol: this object is garbage from here on, and there may be
        # thousands before the collector runs.
        self.parser = None  # type: ignore[assignment]  # as uvicorn does when the connection is lost
        if self._sockets.draining:
            self._refuse(503, "this node is stopping", (b"retry-after", b"1"))
            return
        if self._sockets.full:
            limit = self._sockets.settings.max_sockets
            self._refuse(503, f"this node has all {limit} sockets it may have", (b"retry-after", b"5"))
            return
        headers = Headers()
        for name, value in self.headers:
            headers[name.decode("latin-1")] = value.decode("latin-1")
        request = Request(
            self.url.decode("latin-1"), headers, self.scope["method"], f"HTTP/{self.scope['http_version']}"
        )
        response = ServerProtocol(logger=_quiet).accept(request)
        if response.status_code != 101:
            metrics.REFUSED.labels(response.status_code).inc()
            response.headers["Sec-WebSocket-Version"] = "13"
            self.transport.write(response.serialize())
            self.transport.close()
            return
        conversation = Conversation(
            self._sockets,
            cast(set[object], self.connections),
            self.transport,
            response,
            self.server_state.default_headers,
        )
        # A client speaks after the 101, so nothing is lost by not reading before it.
        self.transport.set_protocol(conversation.socket)
        task = self.loop.create_task(conversation.run(self.app, self._websocket_scope(headers)))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _websocket_scope(self, headers: Headers) -> dict[str, Any]:
        path, _, query = self.url.partition(b"?")
        wanted = ",".join(headers.get_all("Sec-WebSocket-Protocol"))
        return {
            "type": "websocket",
            "asgi": {"version": self.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "wss" if is_ssl(self.transport) else "ws",
            "server": get_local_addr(self.transport),
            "client": get_remote_addr(self.transport),
            "root_path": self.root_path,
            "path": self.root_path + unquote(path.decode("latin-1")),
            "raw_path": self.root_path.encode() + path,
            "query_string": query,
            "headers": self.headers,
            "subprotocols": [word.strip() for word in wanted.split(",") if word.strip()],
            "state": self.app_state.copy(),
        }
