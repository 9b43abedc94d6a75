"""What can go wrong, once: code, whether it passes by itself, HTTP status, WebSocket close code.

Close codes from 4000 to 4499 mean "come back with your position", 4500 to 4999 mean "stop": a client
needs only the range, so a new code needs no new client.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One row of the table."""

    code: str
    temporary: bool  # the same request may succeed later, unchanged
    status: int  # HTTP
    close: int | None  # WebSocket, where a socket is closed for it
    meaning: str


_ROWS = (
    # Requests
    Problem("missing_parameters", False, 400, 4501, "a required parameter is missing, empty or blank"),
    Problem("bad_request", False, 400, 4501, "the request cannot be read"),
    Problem("unauthorized", False, 401, 4500, "no valid token"),
    Problem("forbidden", False, 403, 4507, "the token does not allow this"),
    Problem("not_found", False, 404, 4501, "there is no such thing, or it is not yours to see"),
    Problem("method_not_allowed", False, 405, None, "the path exists, the method does not"),
    Problem("slow_request", True, 408, None, "the request's body took too long to arrive"),
    Problem("idempotency_conflict", False, 409, None, "the idempotency key was used for another message"),
    Problem("conflict", False, 409, None, "things are not as the request expects them to be"),
    Problem("already_decided", False, 409, None, "somebody decided on it first"),
    Problem("too_large", False, 413, 1009, "the body or frame is larger than allowed"),
    Problem("unsupported_media_type", False, 415, None, "the content type is not one of those accepted"),
    Problem("invalid", False, 422, 4501, "a value breaks a rule of its field"),
    Problem("throttled", True, 429, 4007, "too many requests from this sender"),
    Problem("internal", True, 500, 4002, "a fault of the service"),
    Problem("unavailable", True, 503, 4002, "Redis or PostgreSQL is out of reach"),
    Problem("backlog", True, 503, None, "the workers are too far behind, or Redis is nearly full"),
    Problem("not_durable", True, 503, None, "stored, but the durability asked for was not confirmed in time"),
    Problem("draining", True, 503, 4001, "this node is stopping"),
    Problem("node_full", True, 503, 4003, "this node has all the sockets or memory it may use"),
    # Sockets
    Problem("slow_consumer", True, 503, 4004, "the socket's send buffer is full"),
    Problem("gap", True, 503, 4005, "events were missed and could not be repaired here"),
    Problem("no_pong", True, 503, 4006, "no answer to a ping"),
    Problem("ack_timeout", True, 503, 4008, "no progress of acknowledgements"),
    Problem("no_connect", False, 400, 4502, "no connect frame in time"),
    Problem("unknown_type", False, 400, None, "the frame's type is not one of the protocol"),
    Problem("not_subscribed", False, 409, None, "this socket has not subscribed to the ticket"),
    Problem("ack_ahead", False, 422, 4501, "a position beyond what was sent to this socket"),
    Problem("too_many_tickets", False, 429, None, "this socket has all the tickets it may have"),
    Problem("protocol_version", False, 400, 4508, "the subprotocol is not one of those spoken here"),
    # Why an entry was buried
    Problem("undecodable", False, 422, None, "the entry is no message: a field is missing, unknown or wrong"),
    Problem("unknown_version", False, 422, None, "the entry has a version this worker does not know"),
    Problem("archive_refused", False, 422, None, "PostgreSQL refused the row for good"),
    Problem("duplicate", False, 409, None, "another message with the same client_message_id is archived already"),
    Problem("log_refused", False, 500, None, "the ticket's log cannot take the entry: its key is of another type"),
    Problem("poison", False, 500, None, "the entry was in hand when its worker died, too often"),
)  # fmt: skip

PROBLEMS: dict[str, Problem] = {row.code: row for row in _ROWS}
SERVICE_RESTART = 1012  # RFC 6455 registry: what uvicorn and we send to plain sockets on shutdown
