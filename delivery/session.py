"""The protocol of one v1 client: what a frame means now. No I/O, no clock of its own.

`receive` turns a text frame into effects, in order: frames to send, a failure that ends the socket, or a request
that is allowed now and has to be carried out. The same requests on another transport would need nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from schemas.frames import (
    Ack,
    BadFrame,
    Connect,
    History,
    Pong,
    Presence,
    Read,
    Refresh,
    Request,
    Subscribe,
    Typing,
    Unsubscribe,
    read_request,
)
from schemas.problems import PROBLEMS

BURST_S = 10.0  # a client may send so many seconds' worth of frames at once
MOST_WAITING = 64  # frames that may follow connect before it is answered
# What a frame makes us do; others 1. An acknowledgement that is progress is bounded by what was sent: see `charge`.
_COST = {Subscribe: 4, History: 4, Presence: 2, Refresh: 10, Ack: 0}
_WRONG_FRAME_COST = 10


@dataclass(frozen=True, slots=True)
class Send:
    """Send a frame of `schemas.frames`."""

    frame: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fail:
    """Send an error frame, then close with the code of the problems table."""

    code: str
    detail: str
    request_id: int | None = None


Effect: TypeAlias = Send | Fail | Request


def error(
    code: str,
    detail: str,
    request_id: int | None = None,
    *,
    ticket: str | None = None,
    retry_after_s: float | None = None,
) -> dict[str, Any]:
    """Return an `error` frame."""
    frame: dict[str, Any] = {"type": "error"}
    if request_id is not None:
        frame["id"] = request_id
    frame |= {"code": code, "message": detail, "temporary": PROBLEMS[code].temporary}
    if ticket is not None:
        frame["ticket_id"] = ticket
    if retry_after_s is not None:
        frame["retry_after_ms"] = round(retry_after_s * 1000)
    return frame


class State(Enum):
    NEW = "new"  # connect is expected
    CONNECTING = "connecting"  # who it is, is being found out; frames wait
    CONNECTED = "connected"
    ENDED = "ended"


class Session:
    """One client, from its handshake to its end."""

    __slots__ = ("_allowed_at", "_max_tickets", "_per_second", "_waiting", "state", "tickets")

    def __init__(self, frames_per_second: int, max_tickets: int) -> None:
        self._per_second = frames_per_second
        self._max_tickets = max_tickets
        self._allowed_at = 0.0
        self._waiting: list[Request] | None = None
        self.state = State.NEW
        self.tickets: set[str] = set()  # subscribed, or on the way to be

    def receive(self, text: str, now: float) -> list[Effect]:
        """Take a text frame at *now* (monotonic seconds) and say what is to be done, in order."""
        if self.state is State.ENDED:
            return []
        try:
            request = read_request(text)
        except BadFrame as exc:
            if not self._paced(_WRONG_FRAME_COST, now):
                return [self._throttled()]
            if self.state is State.NEW:
                return [self._end(exc.code if PROBLEMS[exc.code].close else "no_connect", exc.detail, exc.request_id)]
            return [Send(error(exc.code, exc.detail, exc.request_id))]
        if not self._paced(_COST.get(type(request), 1), now):
            return [self._throttled()]
        if self.state is State.NEW:
            return [self._connect(request)]
        if self.state is State.CONNECTING:
            if self._waiting is None:
                self._waiting = []
            if len(self._waiting) >= MOST_WAITING:
                return [self._throttled()]
            self._waiting.append(request)
            return []
        return self._judge(request)

    def admitted(self, frame: Connect) -> list[Effect]:
        """The client of *frame* is known and was told so; take up its tickets and what it sent meanwhile."""
        if self.state is not State.CONNECTING:
            return []
        self.state = State.CONNECTED
        effects: list[Effect] = []
        for ticket, since in frame.resume.items():
            effects += self._judge(Subscribe(type="subscribe", ticket_id=ticket, since=since, id=frame.id))
        waiting, self._waiting = self._waiting or [], None
        for request in waiting:
            effects += self._judge(request)
        return effects

    def charge(self, now: float) -> list[Effect]:
        """Count a frame that turned out to mean nothing."""
        return [] if self._paced(1, now) else [self._throttled()]

    def end(self) -> None:
        """The socket is closing: nothing means anything any more."""
        self.state = State.ENDED
        self.tickets.clear()
        self._waiting = None

    def dropped(self, ticket: str) -> None:
        """A subscription did not come about, or was ended by the server."""
        self.tickets.discard(ticket)

    # --- one frame

    def _connect(self, request: Request) -> Effect:
        if not isinstance(request, Connect):
            return self._end("no_connect", f"the first frame is {request.type}, allowed: connect", request.id)
        self.state = State.CONNECTING
        return request

    def _judge(self, request: Request) -> list[Effect]:
        match request:
            case Connect():
                return [Send(error("conflict", "this socket is connected already", request.id))]
            case Pong():
                return []
            case Subscribe(ticket_id=ticket):
                if ticket not in self.tickets and len(self.tickets) >= self._max_tickets:
                    detail = f"this socket has all {self._max_tickets} tickets it may have"
                    return [Send(error("too_many_tickets", detail, request.id, ticket=ticket))]
                self.tickets.add(ticket)
            case Unsubscribe(ticket_id=ticket):
                if ticket not in self.tickets:
                    return [Send(_not_subscribed(request.id, ticket))]
                self.tickets.discard(ticket)
            case Ack(ticket_id=ticket) | Read(ticket_id=ticket) | Typing(ticket_id=ticket) | Presence(ticket_id=ticket):
                if ticket not in self.tickets:
                    return [Send(_not_subscribed(request.id, ticket))]
            case History() | Refresh():
                pass
        return [request]

    # --- limits and ends

    def _paced(self, cost: int, now: float) -> bool:
        """Count frames by GCRA: a steady rate, and a burst of some seconds' worth."""
        allowed_at = max(self._allowed_at, now) + cost / self._per_second
        if allowed_at > now + BURST_S:
            return False
        self._allowed_at = allowed_at
        return True

    def _throttled(self) -> Fail:
        return self._end("throttled", f"more than {self._per_second} frames a second, subscriptions counting for more")

    def _end(self, code: str, detail: str, request_id: int | None = None) -> Fail:
        self.end()
        return Fail(code, detail, request_id)


def _not_subscribed(request_id: int | None, ticket: str) -> dict[str, Any]:
    return error("not_subscribed", f"ticket {ticket} is not subscribed here", request_id, ticket=ticket)
