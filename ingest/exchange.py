"""Read a request's body and write its answer on the bare ASGI interface.

Starlette's Request, form parser and Response cost more than everything else on the accept path (docs/benchmarks.md).
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.types import Receive, Scope, Send

from ticketwire.errors import Rejected, TicketwireError, Unavailable

Headers = dict[bytes, bytes]  # lower-case names; of a repeated header the last one
_Header = tuple[bytes, bytes]

JSON = b"application/json"
NDJSON = b"application/x-ndjson"
_CLOSE: _Header = (b"connection", b"close")
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_MISSING = b'{"error":"Missing parameters"}'
INTERNAL = b'{"error":"Internal Server Error"}'


class Gone(Exception):
    """The client closed the connection before its request was complete: there is nobody to answer."""


class BodyReader:
    """Reads bodies within a size and a time, one for the whole application.

    uvicorn never gives up on a body that does not come. One timer for all requests costs a tenth of
    `asyncio.timeout` around each (5 µs, measured); all have the same time, so the first to come is the first due.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._reading: dict[asyncio.Task[Any], float] = {}  # task -> when its time is over
        self._late: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, scope: Scope, receive: Receive, headers: Headers, most: int) -> bytes:
        """Return the whole body. Raises Rejected for more than *most* bytes or too slow a body, and Gone."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        self._reading[task] = due = loop.time() + self._timeout_s
        if self._timer is None:
            self._timer = loop.call_at(due, self._expire)
        try:
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body") and len(message["body"]) <= most:
                return message["body"]  # type: ignore[no-any-return]
            return await self._rest(message, receive, headers, most)
        except asyncio.CancelledError:
            if task in self._late and task.uncancel() == 0:
                detail = f"the body did not arrive whole within {self._timeout_s:g} s"
                raise Rejected("slow_request", detail) from None
            raise
        finally:
            del self._reading[task]
            self._late.discard(task)

    async def _rest(self, message: Any, receive: Receive, headers: Headers, most: int) -> bytes:
        length = headers.get(b"content-length", b"")
        declared = int(length) if length.isdigit() and len(length) < 20 else 0
        if declared > most and b"expect" in headers:  # it has not begun to send: say so at once
            raise _too_large(declared, most)
        chunks: list[bytes] = []
        size = 0
        while True:
            if message["type"] == "http.disconnect":
                raise Gone
            chunk = message.get("body", b"")
            size += len(chunk)
            if size <= most:
                chunks.append(chunk)
            else:
                # Read on without keeping it: a client that is answered while it still sends sees a reset connection
                # instead of the answer.
                chunks.clear()
            if not message.get("more_body"):
                break
            message = await receive()
        if size > most:
            raise _too_large(size, most)
        return b"".join(chunks)

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for task, due in self._reading.items():
            if due > now:
                break
            if task not in self._late:
                self._late.add(task)
                task.cancel()
        following = next((due for due in self._reading.values() if due > now), None)
        self._timer = loop.call_at(following, self._expire) if following is not None else None


def _too_large(size: int, most: int) -> Rejected:
    return Rejected("too_large", f"the body has {size:,} bytes, allowed: {most:,}")


async def answer(send: Send, status: int, body: bytes, *headers: _Header, content_type: bytes = JSON) -> None:
    """Write a whole answer."""
    length = str(len(body)).encode()
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", content_type), (b"content-length", length), *headers],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def accepted(send: Send, message_id: str) -> None:
    """Answer 200. An id is digits and a hyphen: nothing in it needs escaping."""
    await answer(send, 200, b'{"status":"success","message_id":"%b"}' % message_id.encode())


async def refused(send: Send, error: TicketwireError) -> None:
    """Answer with the status that `schemas.problems` has for the error's code."""
    headers: list[_Header] = []
    if isinstance(error, Unavailable):
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    if error.code in ("slow_request", "too_large"):
        headers.append(_CLOSE)  # what is still to come of the body is not waited for
    await answer(send, error.problem.status, error_body(error), *headers)


def error_body(error: TicketwireError) -> bytes:
    """The answer's body. Two of them are the tutorial's own and have no code."""
    if error.code == "missing_parameters":
        return _MISSING
    if error.code == "internal":
        return INTERNAL
    return to_json({"error": error.detail, "code": error.code})


def to_json(value: dict[str, Any]) -> bytes:
    # A detail may quote what was sent; lone surrogates of JSON cannot be written as UTF-8.
    return _to_json(value).encode("utf-8", "backslashreplace")
