"""What a client must do with each frame of `ticketwire.v1`. No I/O, no clock; web/session.js is the same.

tests/vectors/conversations.json is run by both sides' tests, so they cannot drift.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from schemas.message_id import MessageId

Frame = dict[str, Any]

EVENTS = ("message", "message_updated", "message_deleted")
QUIET_ACK_MS = 200  # after a pause the first event is acknowledged this soon: others see that it was delivered
HEAD_BYTES = 4  # of an event's WebSocket frame, which the server counts too


def position_of(event: Frame) -> str:
    """A message's own id; for a change its place in the log."""
    return str(event["message_id"] if event["type"] == "message" else event["event_id"])


@dataclass(slots=True)
class _Ticket:
    at: str | None  # None: from wherever the server has this device, or from now on
    # Position and size of what the application has not done with.
    delivered: deque[tuple[str, int]] = field(default_factory=deque)
    handled: str | None = None  # what may be acknowledged; None: nothing new
    asked: bool = False  # a subscribe is under way: events before its answer belong to nothing
    history: int = 0
    said: bool = False  # the server knows of it, by connect or subscribe


@dataclass(slots=True)
class Outcome:
    """What is to be done after a frame, in this order."""

    deliver: list[Frame] = field(default_factory=list)  # for the application: events, and whatever is no bookkeeping
    send: list[Frame] = field(default_factory=list)
    reconnect_within_ms: int | None = None


class Tracker:
    """One client's position in all its tickets."""

    def __init__(self) -> None:
        self._tickets: dict[str, _Ticket] = {}
        self._left: list[str] = []  # connect named them, and they were left before it was answered
        self._window = 512
        self._window_bytes = 524_288
        self._interval_ms = 5_000
        self._handled = self._handled_bytes = 0  # events that may be acknowledged
        self._handled_since_ms = 0.0
        self._acked_ms = float("-inf")
        self.connected = False

    @property
    def tickets(self) -> list[str]:
        return list(self._tickets)

    def position(self, ticket: str) -> str | None:
        """How far the client is in a ticket."""
        return self._tickets[ticket].at

    def connect(self, **identity: Any) -> Frame:
        """Return the first frame of a new socket, which resumes every ticket."""
        self.connected = False
        self._handled = self._handled_bytes = 0
        self._left.clear()
        for ticket in self._tickets.values():
            ticket.asked = ticket.said = True
            ticket.handled = None
            ticket.delivered.clear()
        frame = {"type": "connect"} | {name: value for name, value in identity.items() if value is not None}
        if self._tickets:
            frame["resume"] = {name: ticket.at for name, ticket in self._tickets.items()}
        return frame

    def subscribe(self, ticket: str, since: str | None = None, history: int = 0) -> list[Frame]:
        """Add a ticket; return what to send now: nothing before `connected`, which connect or its answer sees to."""
        known = self._tickets[ticket] = _Ticket(since, asked=True, history=history)
        return [self._subscribe(ticket, known)] if self.connected else []

    @staticmethod
    def _subscribe(name: str, ticket: _Ticket) -> Frame:
        ticket.said = True
        frame: Frame = {"type": "subscribe", "ticket_id": name}
        if ticket.at is not None:
            frame["since"] = ticket.at
        if ticket.history:
            frame["history"] = ticket.history
        return frame

    def unsubscribe(self, ticket: str) -> list[Frame]:
        """Leave a ticket; return what to send now."""
        known = self._tickets.pop(ticket, None)
        if known is None or not known.said:
            return []
        if not self.connected:
            self._left.append(ticket)
            return []
        return [{"type": "unsubscribe", "ticket_id": ticket}]

    # --- what the server says

    def receive(self, frame: Frame, size: int) -> Outcome:
        """Take a frame, whose text has *size* bytes.

        Unknown types are passed to the application: a newer server may send them.
        """
        kind, ticket = frame["type"], self._tickets.get(frame.get("ticket_id", ""))
        if kind in EVENTS:
            return self._event(frame, ticket, size + HEAD_BYTES)
        if kind == "connected":
            self.connected = True
            self._window, self._window_bytes = frame["ack_window"], frame["ack_bytes"]
            self._interval_ms = frame["ack_ms"]
            return Outcome([frame], self._meanwhile())
        if kind == "subscribed":
            if ticket is not None:
                ticket.asked, ticket.at, ticket.handled = False, frame["position"], None
                ticket.delivered.clear()
            return Outcome([frame])
        if kind == "caught_up":
            if ticket is not None and not ticket.asked:
                ticket.at = frame["position"]
            return Outcome([frame])
        if kind == "ping":
            return Outcome(send=[{"type": "pong"}])
        if kind == "reconnect":
            return Outcome(reconnect_within_ms=frame["within_ms"])
        return Outcome([frame])

    def _meanwhile(self) -> list[Frame]:
        """Say what has changed since connect was sent."""
        frames: list[Frame] = [{"type": "unsubscribe", "ticket_id": name} for name in self._left]
        self._left.clear()
        return frames + [self._subscribe(name, ticket) for name, ticket in self._tickets.items() if not ticket.said]

    def _event(self, frame: Frame, ticket: _Ticket | None, size: int) -> Outcome:
        if ticket is None or ticket.asked or ticket.at is None:
            return Outcome()
        at = position_of(frame)
        if MessageId.parse(at) <= MessageId.parse(ticket.at):
            return Outcome()  # at-least-once makes repeats normal
        if frame["prev_id"] != ticket.at:
            ticket.asked = True
            return Outcome(send=[{"type": "subscribe", "ticket_id": frame["ticket_id"], "since": ticket.at}])
        ticket.at = at
        ticket.delivered.append((at, size))
        return Outcome([frame])

    # --- acknowledging

    def handled(self, ticket: str, position: str, now_ms: float) -> None:
        """The application has done with everything up to *position*."""
        known = self._tickets.get(ticket)
        if known is None or known.asked:
            return
        end = MessageId.parse(position)
        while known.delivered and MessageId.parse(known.delivered[0][0]) <= end:
            known.handled, size = known.delivered.popleft()
            if not self._handled:
                self._handled_since_ms = now_ms
            self._handled += 1
            self._handled_bytes += size

    def ack_due_ms(self) -> float | None:
        """Return when `acks` should be called; None while there is nothing to acknowledge."""
        if not self._handled:
            return None
        if self._handled * 2 >= self._window or self._handled_bytes * 2 >= self._window_bytes:
            return self._handled_since_ms
        # The server waits for us, or soon will, while the application is busy with the rest.
        unhandled = [size for ticket in self._tickets.values() for _, size in ticket.delivered]
        if self._handled + len(unhandled) >= self._window or self._handled_bytes + sum(unhandled) >= self._window_bytes:
            return self._handled_since_ms
        return max(self._handled_since_ms + QUIET_ACK_MS, self._acked_ms + self._interval_ms)

    def acks(self, now_ms: float) -> list[Frame]:
        """Return an `ack` for each ticket in which something was handled since its last one."""
        frames: list[Frame] = []
        for name, ticket in self._tickets.items():
            if ticket.handled is not None:
                frames.append({"type": "ack", "ticket_id": name, "position": ticket.handled})
                ticket.handled = None
        self._handled = self._handled_bytes = 0
        if frames:
            self._acked_ms = now_ms
        return frames
