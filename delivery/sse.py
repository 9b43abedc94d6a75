"""Server-sent events: `GET /sse/{ticket}`, the same rooms and the same order for whoever has no WebSocket.

`id:` is the position, so a browser's EventSource resumes by itself with Last-Event-ID. A message is the default event
with the five fields of plain mode; `message_updated` and `message_deleted` are named events, as are `caught_up` and
`reset`. Comments keep the connection alive.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl

from delivery import metrics
from delivery.frames import chunk, sse
from delivery.replay import PreparedReader, Replay
from delivery.room import Room
from schemas.message_id import MessageId

log = logging.getLogger(__name__)

EXTENSION = "ticketwire.stream"  # offered to requests whose path begins with PATH
PATH = b"/sse/"
RETRY_MS = 2_000  # what EventSource waits before it comes back
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would collect events otherwise
    (b"transfer-encoding", b"chunked"),
]
_BEAT = chunk(b":\n\n")
_END = b"0\r\n\r\n"


class Stream:
    """One response body, written without a task: prepared chunks go straight to the transport."""

    __slots__ = ("_flow", "_limit", "_transport", "closing")

    def __init__(self, transport: asyncio.Transport, flow: FlowControl, limit: int) -> None:
        self._transport = transport
        self._flow = flow
        self._limit = limit  # bytes
        self.closing = False

    def write(self, data: bytes) -> None:
        """Send chunks; a client that takes none of them in time is cut off, and comes back with its position."""
        if self.closing or self._transport.is_closing():
            self.closing = True
        elif self._transport.get_write_buffer_size() + len(data) > self._limit:
            self.closing = True
            self._transport.abort()
        else:
            self._transport.write(data)

    @property
    def paused(self) -> bool:
        return self._flow.write_paused

    async def drained(self) -> None:
        if self._flow.write_paused and not self.closing:
            await self._flow.drain()

    def end(self) -> None:
        """Finish the body."""
        if not self.closing:
            self.write(_END)
            self.closing = True
            self._transport.close()


class Streams:
    """All open streams and long polls of this node."""

    def __init__(self, every_s: float) -> None:
        self._every = every_s
        self._open: set[Stream] = set()
        self.ending = asyncio.Event()  # this node stops

    def __len__(self) -> int:
        return len(self._open)

    def add(self, stream: Stream) -> None:
        self._open.add(stream)
        metrics.STREAMS.set(len(self._open))

    def remove(self, stream: Stream) -> None:
        self._open.discard(stream)
        metrics.STREAMS.set(len(self._open))

    async def beat(self) -> None:
        """Send comments until cancelled: proxies close what is silent, and a dead client shows in the buffer."""
        while True:
            await asyncio.sleep(self._every)
            for stream in list(self._open):
                stream.write(_BEAT)

    def close(self) -> None:
        """End all streams and long polls: their clients come back elsewhere."""
        self.ending.set()
        for stream in list(self._open):
            stream.end()


def _event(name: str, position: MessageId, data: dict[str, Any]) -> bytes:
    return chunk(f"event: {name}\nid: {position}\ndata: {json.dumps(data)}\n\n".encode())


class _Reader(PreparedReader):
    """Tells the client when it has caught up."""

    def __init__(self, stream: Stream, resumes: bool) -> None:
        super().__init__(stream, sse)
        self._stream = stream
        self._resumes = resumes

    def join(self, room: Room) -> None:
        if self._resumes:
            self._stream.write(_event("caught_up", room.position, {"position": str(room.position)}))
        super().join(room)


class EventStream(Response):
    """The answer to `GET /sse/{ticket}`, in a room that was entered for it."""

    def __init__(
        self,
        streams: Streams,
        replay: Replay,
        room: Room,
        since: MessageId | None,
        reset: bool,
        leave: Callable[[], None],
    ) -> None:
        super().__init__()
        self._streams = streams
        self._replay = replay
        self._room = room
        self._since = since
        self._reset = reset
        self._leave = leave  # called once, at the end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        room, stream = self._room, None
        try:
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            stream = scope["extensions"][EXTENSION]()
            self._streams.add(stream)
            if self._streams.ending.is_set():
                stream.end()
            stream.write(chunk(f"retry: {RETRY_MS}\n\n".encode()))
            if self._reset:
                stream.write(_event("reset", room.position, {"position": str(room.position)}))
            elif self._since is None:
                stream.write(chunk(f"id: {room.position}\n\n".encode()))
            resumes = self._since is not None and not self._reset
            start = self._since if resumes and self._since is not None else room.position
            catch_up = asyncio.ensure_future(
                self._replay.run(room, _Reader(stream, resumes), min(start, room.position))
            )
            catch_up.add_done_callback(lambda task: _report(task, stream))
            try:
                while (await receive())["type"] != "http.disconnect":
                    pass
            finally:
                stream.closing = True
                catch_up.cancel()
                await asyncio.gather(catch_up, return_exceptions=True)
        finally:
            if stream is not None:
                stream.closing = True
                self._streams.remove(stream)
                room.leave(stream, sse)
            self._leave()


def _report(task: asyncio.Future[None], stream: Stream) -> None:
    """A fault in a catch-up ends its stream: the client comes back with its position."""
    if not task.cancelled() and task.exception() is not None:
        log.error("fault in a stream", exc_info=task.exception())
        stream.end()
