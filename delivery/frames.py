"""Events as the frames of `ticketwire.v1` and of SSE, and the other frames this node says. No I/O.

Frames of events are written out rather than made from dicts: each is made once for all sockets, but for every message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from json.encoder import encode_basestring as _quoted
from typing import Any

from delivery.deflate import deflated
from delivery.events import Event, plain
from delivery.wire import text_frame
from schemas.events import Confirmed, plain_json
from schemas.message_id import MessageId

PING = text_frame(b'{"type":"ping"}')


def frame(fields: Mapping[str, Any]) -> bytes:
    """Return the WebSocket frame of a frame of `schemas.frames`."""
    return text_frame(json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"))


def v1(event: Event) -> bytes:
    """Encode for v1 clients that are not the message's author."""
    return v1_after(event, event.prev, author=False)


def v1_author(event: Event) -> bytes:
    """Encode for the author's own sockets, which know the message by their client_message_id."""
    return v1_after(event, event.prev, author=True)


def v1_after(event: Event, prev: MessageId, *, author: bool) -> bytes:
    """Encode for a reader whose position is *prev*: in a replay it need not be the log's own predecessor."""
    return text_frame(event_json(event.confirmed, prev, author=author).encode("utf-8", "replace"))


def event_json(entry: Confirmed, prev: MessageId | None, *, author: bool) -> str:
    """Return `message`, `message_updated` or `message_deleted` of `schemas.frames` as JSON; None: without prev_id."""
    head = f'{{"type":"{entry.kind}",' + (f'"prev_id":"{prev}",' if prev is not None else "")
    if entry.kind != "message":
        text = f'"message":{_quoted(entry.message)},' if entry.kind == "message_updated" else ""
        return (
            f'{head}"ticket_id":{_quoted(entry.ticket_id)},"event_id":"{entry.message_id}",'
            f'"message_id":"{entry.target_id}",{text}"timestamp":{entry.timestamp}}}'
        )
    tail = ""
    if author and entry.client_message_id is not None:
        tail += f',"client_message_id":{_quoted(entry.client_message_id)}'
    if entry.original_id is not None:
        tail += f',"original_id":{_quoted(entry.original_id)}'
    if entry.trace_id is not None:
        tail += f',"trace_id":{_quoted(entry.trace_id)}'
    return head + plain_json(entry)[1:-1] + tail + "}"


def plain_deflated(event: Event) -> bytes:
    """`plain` for sockets that negotiated compression."""
    return deflated(event.frame(plain))


def v1_deflated(event: Event) -> bytes:
    """`v1` for sockets that negotiated compression."""
    return deflated(event.frame(v1))


def v1_author_deflated(event: Event) -> bytes:
    """`v1_author` for sockets that negotiated compression."""
    return deflated(event.frame(v1_author))


def sse(event: Event) -> bytes:
    """Encode for SSE, as a chunk of HTTP/1.1: a message as in plain mode, a change as in v1, under its position."""
    entry = event.confirmed
    if entry.kind == "message":
        data, name = plain_json(entry), ""
    else:
        data, name = event_json(entry, None, author=False), f"event: {entry.kind}\n"
    return chunk(f"{name}id: {entry.message_id}\ndata: {data}\n\n".encode("utf-8", "replace"))


def chunk(data: bytes) -> bytes:
    """Return a chunk of a chunked HTTP/1.1 body (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)
