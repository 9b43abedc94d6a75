"""From an HTTP request to a WebSocket: uvicorn's HTTP protocol with limits, and the handshake (RFC 6455, 4.2)."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast
from urllib.parse import unquote

from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState
from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.server import ServerProtocol

from delivery import metrics, sse
from delivery.conversation import Conversation
from delivery.deflate import Offers
from delivery.protocol import Sockets
from ticketwire.limited_http import LimitedHttp

_OFFERS = (Offers(),)
_quiet = logging.getLogger("websockets.server")


class UpgradingHttp(LimitedHttp):
    """uvicorn's HTTP with limits; upgrades come to us.

    Give it to uvicorn as `http=functools.partial(UpgradingHttp, sockets)`.
    """

    joins = False  # a stream's head is written by uvicorn, its body by us

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
        self.max_head_bytes = sockets.settings.max_header_bytes
        self.head_seconds = sockets.settings.handshake_seconds

    def _refuse(self, status: int, sentence: str, *headers: tuple[bytes, bytes]) -> None:
        metrics.REFUSED.labels(int(status)).inc()
        super()._refuse(status, sentence, *headers)

    # --- streams

    def on_headers_complete(self) -> None:
        if self.url.startswith(sse.PATH):
            self.scope["extensions"] = {sse.EXTENSION: self._stream}  # type: ignore[dict-item]  # ours
        super().on_headers_complete()

    def _stream(self) -> sse.Stream:
        """The body of this connection's response, once its head was sent."""
        return sse.Stream(self.transport, self.flow, self._sockets.settings.send_buffer_bytes)

    # --- the handshake

    def handle_websocket_upgrade(self) -> None:
        self.connections.discard(self)
        # Break the cycle between parser and protocol: this object is garbage from here on, and there may be
        # thousands before the collector runs.
        self.parser = None  # type: ignore[assignment]  # as uvicorn does when the connection is lost
        refusal = self._sockets.refusal
        if refusal is not None:
            after = str(refusal.retry_after_s).encode()
            self._refuse(refusal.problem.status, refusal.detail, (b"retry-after", after))
            return
        headers = Headers()
        for name, value in self.headers:
            headers[name.decode("latin-1")] = value.decode("latin-1")
        request = Request(
            self.url.decode("latin-1"), headers, self.scope["method"], f"HTTP/{self.scope['http_version']}"
        )
        protocol = ServerProtocol(logger=_quiet, extensions=_OFFERS if self._sockets.settings.deflate else None)
        response = protocol.accept(request)
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
            deflates=bool(protocol.extensions),
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
