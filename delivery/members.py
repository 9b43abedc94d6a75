"""The v1 readers of one ticket on this node: who is live, who gets notices, and how far each may run ahead. No I/O."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from typing import Protocol, TypeAlias

from delivery import metrics
from delivery.events import Encoding, Event, Notice
from delivery.fanout import Outbox, Writer, joined
from delivery.frames import v1, v1_author, v1_author_deflated, v1_deflated
from delivery.ledger import Ledger, Outstanding
from delivery.wire import text_frame
from schemas.message_id import MessageId

# How sockets without and with compression are written to: an event of others, one of their own user.
Kind: TypeAlias = tuple[Encoding, Encoding]
_KINDS: tuple[Kind, Kind] = ((v1, v1_author), (v1_deflated, v1_author_deflated))
_SHED = {kind: metrics.SHED.labels(kind) for kind in ("typing", "presence_diff")}


class Occupant(Protocol):
    """A seat, as seen from here."""

    user: str
    acks: Outstanding
    watching: bool  # wants to know who is present

    @property
    def socket(self) -> Writer: ...

    @property
    def deflates(self) -> bool: ...

    def write(self, data: bytes) -> None: ...

    @property
    def slow(self) -> bool:
        """Whether its socket does not keep up: then nothing is written that may be left out."""

    def share(self) -> tuple[int, int]:
        """How many messages and bytes this seat may get until it acknowledges some."""

    def pause(self, position: MessageId) -> None:
        """It is not live any more, its window being full; it goes on after *position* by itself."""


class Load(Protocol):
    """Whether this node has more to do than it can."""

    shedding: bool


class Members:
    """Everything a ticket's v1 readers share."""

    __slots__ = ("_least", "_least_size", "_live", "_load", "_order", "_seats", "_users", "ledger", "presence_version",
                 "typists")  # fmt: skip

    def __init__(self, position: MessageId, keep: int, load: Load) -> None:
        self.ledger = Ledger(keep)
        self.ledger.at = position
        self._load = load
        self._seats: set[Occupant] = set()
        self._live: set[Occupant] = set()
        self._order: list[tuple[Kind, list[Writer]]] | None = None  # the live ones by kind
        self._users: Counter[str] = Counter()  # how many live seats each has
        # Below both of the ledger's totals every live reader has room in its window: nobody needs to be looked at.
        self._least = self._least_size = 0
        self.presence_version = 0  # of the last diff that was passed on
        self.typists: set[str] = set()  # users of this node who are writing

    def __len__(self) -> int:
        """How many are live."""
        return len(self._live)

    @property
    def seats(self) -> int:
        return len(self._seats)

    # --- coming and going

    def add(self, seat: Occupant) -> None:
        """It gets notices from now on."""
        self._seats.add(seat)

    def remove(self, seat: Occupant) -> None:
        self._seats.discard(seat)
        self._leave_live(seat)

    def join(self, seat: Occupant) -> None:
        """It gets events from now on; it was sent everything up to the ledger's position."""
        seat.acks.go_live(self.ledger)
        self._live.add(seat)
        self._order = None
        self._users[seat.user] += 1
        self._least = self._least_size = 0  # its window is not known: look at the next event

    def _leave_live(self, seat: Occupant) -> None:
        if seat in self._live:
            self._live.discard(seat)
            self._order = None
            self._users[seat.user] -= 1
            if not self._users[seat.user]:
                del self._users[seat.user]
            seat.acks.leave_live()

    # --- events

    def deliver(self, events: list[Event], outbox: Outbox | None = None) -> tuple[int, int]:
        """Write *events* to all live readers whose windows have room; the others pause before them."""
        frames = [event.frame(v1) for event in events]
        ledger, size = self.ledger, sum(map(len, frames))
        if self._live and (ledger.count + len(frames) > self._least or ledger.size + size > self._least_size):
            self._make_room(len(frames), size)
        for event, frame in zip(events, frames, strict=True):
            ledger.add(event.at, len(frame))
        if self.typists:
            self.typists.difference_update(event.confirmed.sender_id for event in events)
        if not self._live:
            return 0, 0
        authors = {
            event.confirmed.sender_id
            for event in events
            if event.confirmed.client_message_id is not None and event.confirmed.sender_id in self._users
        }
        written = 0
        # Only authors are told the client_message_id of a message.
        for user in authors:
            mine = [event.confirmed.sender_id == user for event in events]
            for kind, sockets in _by_kind(seat for seat in self._live if seat.user == user):
                own = [event.frame(kind[yes]) for event, yes in zip(events, mine, strict=True)]
                written += _write(own, sockets, outbox)
        if authors:
            others = _by_kind(seat for seat in self._live if seat.user not in authors)
        else:
            if self._order is None:
                self._order = _by_kind(self._live)
            others = self._order
        for kind, sockets in others:
            written += _write([event.frame(kind[False]) for event in events], sockets, outbox)
        return len(frames) * len(self._live), written

    def _make_room(self, count: int, size: int) -> None:
        """Pause those whose window has no room for *count* more messages of *size* bytes; look again when needed."""
        least = least_size = sys.maxsize
        for seat in list(self._live):
            messages, octets = seat.share()
            if messages < count or octets < size:
                self._leave_live(seat)
                seat.pause(self.ledger.at)
                continue
            limit, limit_size = seat.acks.limits(messages, octets)
            least, least_size = min(least, limit), min(least_size, limit_size)
        self._least, self._least_size = least, least_size

    # --- notices

    def tell(self, notice: Notice) -> None:
        """Pass typing, a receipt or a presence diff on."""
        data = text_frame(notice.payload.encode("utf-8", "replace"))
        if notice.kind == "receipt":
            for seat in list(self._seats):
                if notice.own or seat.user != notice.user:
                    seat.write(data)
        elif notice.kind == "typing":
            if self._load.shedding:
                _SHED["typing"].inc()
                return
            self._tell_if_fast([seat for seat in self._seats if seat.user != notice.user], data, "typing")
        else:
            self.presence_version = notice.version
            self._tell_if_fast([seat for seat in self._seats if seat.watching], data, "presence_diff")

    def _tell_if_fast(self, seats: list[Occupant], data: bytes, kind: str) -> None:
        for seat in seats:
            if seat.slow:
                _SHED[kind].inc()
            else:
                seat.write(data)


def _by_kind(seats: Iterable[Occupant]) -> list[tuple[Kind, list[Writer]]]:
    """Return the seats' sockets, flat, those of a kind together."""
    found: tuple[list[Writer], list[Writer]] = [], []
    for seat in seats:
        found[seat.deflates].append(seat.socket)
    return [(kind, sockets) for kind, sockets in zip(_KINDS, found, strict=True) if sockets]


def _write(frames: list[bytes], sockets: list[Writer], outbox: Outbox | None) -> int:
    """Return how many bytes that were."""
    size = 0
    for data in joined(frames):
        size += len(data) * len(sockets)
        if outbox is None:
            for socket in sockets:
                socket.write(data)
        else:
            for socket in sockets:
                outbox.add(socket, data)
    return size
