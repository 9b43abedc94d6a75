"""One handshake's ASGI conversation: scope, receive, send; and ordinary ASGI for applications that attach nothing."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.utils import ClientDisconnected
from websockets.http11 import Response

from delivery import metrics, wire
from delivery.protocol import EXTENSION, Handler, SocketProtocol, Sockets
from ticketwire.limited_http import write_response

log = logging.getLogger(__name__)

MOST_WAITING = 16  # messages nobody has received yet; then reading pauses

Message = dict[str, Any]


class Conversation:
    """What one ASGI call sees of its socket, and the socket's handler until another one is attached."""

    def __init__(
        self,
        sockets: Sockets,
        registry: set[object],
        transport: asyncio.Transport,
        response: Response,
        default_headers: list[tuple[bytes, bytes]],
        *,
        deflates: bool = False,
    ) -> None:
        self.socket = SocketProtocol(sockets, registry, transport, self, deflates=deflates)
        self._transport = transport
        self._response = response
        self._default_headers = default_headers
        self._waiting: deque[Message] = deque([{"type": "websocket.connect"}])
        self._arrived = asyncio.Event()
        self._arrived.set()
        self._accepted = False
        self._attached = False
        self._denial: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._denial_body = b""
        self._over = False  # closed, denied or lost
        self._reading = True

    async def run(self, app: Any, scope: dict[str, Any]) -> None:
        """Call the application; whatever it leaves undone is ended here."""
        scope["extensions"] = {"websocket.http.response": {}, EXTENSION: {"attach": self.attach}}
        try:
            await app(scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except Exception:
            log.exception("fault in a socket's application", extra={"path": scope["path"]})
            if self._accepted:
                self.socket.fail("internal", "a fault of the service")
            elif not self._over:
                self._deny(HTTPStatus.INTERNAL_SERVER_ERROR, [], b"")
            return
        if self._attached or self._over:
            return
        if not self._accepted:
            log.error("a socket's application neither accepted nor denied it", extra={"path": scope["path"]})
            self._deny(HTTPStatus.INTERNAL_SERVER_ERROR, [], b"")
            return
        self.socket.close()

    def attach(self, handler: Handler) -> SocketProtocol:
        """Give the accepted socket to *handler*, with everything not yet received. Returns the socket."""
        if not self._accepted:
            raise RuntimeError("a handler is attached after websocket.accept")
        self._attached = True
        self.socket.attach(handler)
        while self._waiting:
            message = self._waiting.popleft()
            if "text" in message:
                handler.on_text(message["text"])
            elif "bytes" in message:
                handler.on_bytes(message["bytes"])
        self._read_on()
        return self.socket

    # --- ASGI

    async def receive(self) -> Message:
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        message = self._waiting.popleft()
        if not self._waiting:
            self._read_on()
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if self._over:
            raise ClientDisconnected
        if self._denial is not None and kind == "websocket.http.response.body":
            self._denial_body += message.get("body", b"")
            if not message.get("more_body", False):
                self._deny(*self._denial, self._denial_body)
        elif not self._accepted and kind == "websocket.accept":
            self._accept(message)
        elif not self._accepted and kind == "websocket.http.response.start":
            self._denial = (message["status"], list(message.get("headers", ())))
        elif not self._accepted and kind == "websocket.close":
            self._deny(HTTPStatus.FORBIDDEN, [], b"")
        elif self._accepted and kind == "websocket.send":
            data = message.get("text")
            self.socket.write(wire.data_frame(message["bytes"] if data is None else data))
            await self.socket.drained()
        elif self._accepted and kind == "websocket.close":
            self._over = True
            self.socket.close(message.get("code", wire.NORMAL), message.get("reason") or "")
        else:
            raise RuntimeError(f"ASGI message {kind!r} does not fit the state of this socket")

    def _accept(self, message: Message) -> None:
        headers = self._response.headers
        for name, value in (*self._default_headers, *message.get("headers", ())):
            if name.lower() != b"date":  # the handshake's response has one
                headers[name.decode("latin-1")] = value.decode("latin-1")
        if message.get("subprotocol"):
            headers["Sec-WebSocket-Protocol"] = message["subprotocol"]
        self._accepted = True
        self.socket.open(self._response.serialize())

    def _deny(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self._over = True
        metrics.REFUSED.labels(int(status)).inc()
        write_response(self._transport, status, headers, body)

    # --- Handler

    def on_open(self, socket: SocketProtocol) -> None:
        """Not called: this handler is there from the beginning."""

    def on_text(self, text: str) -> None:
        self._received({"type": "websocket.receive", "text": text})

    def on_bytes(self, data: bytes) -> None:
        self._received({"type": "websocket.receive", "bytes": data})

    def on_drained(self) -> None:
        """`send` waits for the socket itself."""

    def on_close(self, code: int) -> None:
        self._over = True
        self._waiting.append({"type": "websocket.disconnect", "code": code})
        self._arrived.set()

    def _received(self, message: Message) -> None:
        self._waiting.append(message)
        self._arrived.set()
        if len(self._waiting) >= MOST_WAITING and self._reading:
            self._reading = False
            self.socket.pause_reading()

    def _read_on(self) -> None:
        if not self._reading:
            self._reading = True
            self.socket.resume_reading()
