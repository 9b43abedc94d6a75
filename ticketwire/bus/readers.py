"""What Redis keeps of a ticket's readers: how far their devices are, what they have read, who is present."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from ticketwire.bus.bus import Bus
from ticketwire.bus.connection import Argument

MOST_UNREAD = 100  # counted; clients show "99+"
MOST_READERS = 50  # whose read positions are told to one who subscribes
TICKETS_A_CALL = 100  # so that no script holds the server for long
_MARKS_A_CALL = 500  # Lua's `unpack` and the size of one command

T = TypeVar("T")


class Standing(NamedTuple):
    """How far a user is in a ticket. Positions are texts; empty: none is known."""

    cursor: str  # of the device
    read: str
    unread: int | None  # messages of others after `read`, at most MOST_UNREAD; None: the log does not reach back to it
    reads: dict[str, str]  # of all readers; empty where there are many


class Mark(NamedTuple):
    """A position that a reader has reached. Empty texts are left as they are."""

    user: str
    device: str
    acked: str
    read: str
    back: bool  # the device's position may go back: it was told `reset`


@dataclass(slots=True)
class PresenceChange:
    """What this node has to say about one ticket."""

    ticket: str
    snapshot: bool = False  # whether to be told who is there
    # By user: (role, state, activity); None for one who left this node.
    users: dict[str, tuple[str, str, str] | None] = field(default_factory=dict)


class PresenceView(NamedTuple):
    """What Redis knows of one ticket."""

    known: bool  # whether this node's lease was still there; False: tell everybody again
    version: int
    members: list[tuple[str, str, str, str]]  # user, role, state, activity; sorted; only if asked for


async def standing(bus: Bus, ticket: str, user: str, device: str) -> Standing:
    """Return how far *user* is in *ticket*. Raises Unavailable."""
    keys = bus.keys
    names = [keys.cursors(ticket), keys.reads(ticket), keys.log(ticket)]
    ((cursor, read, unread, readers),) = await bus.script("standing", names, [user, device, MOST_UNREAD, MOST_READERS])
    reads = dict(zip(readers[::2], readers[1::2], strict=True))
    return Standing(cursor, read, None if unread < 0 else unread, reads)


async def advance(bus: Bus, marks: dict[str, list[Mark]], silent: Callable[[str], bool], life_ms: int) -> int:
    """Write *marks* by ticket; return how many receipts were published. Raises Unavailable.

    May be repeated. Tickets for which *silent* is true get no receipts.
    """
    receipts = 0
    for tickets in _by_server(bus, marks, _MARKS_A_CALL, lambda ticket: len(marks[ticket])):
        names, args = [], list[Argument]((life_ms, _publish(bus)))
        for ticket in tickets:
            names += [bus.keys.cursors(ticket), bus.keys.reads(ticket)]
            args += [ticket, "" if silent(ticket) else bus.keys.events(ticket), len(marks[ticket])]
            for mark in marks[ticket]:
                args += [mark.user, mark.device, mark.acked, mark.read, int(mark.back)]
        (count,) = await bus.script("marks", names, args)
        receipts += count
    return receipts


async def present(bus: Bus, node: str, lease_ms: int, changes: Sequence[PresenceChange]) -> dict[str, PresenceView]:
    """Renew *node*'s lease in the tickets of *changes* and carry these out. Raises Unavailable; may be repeated."""
    by_ticket = {change.ticket: change for change in changes}
    views: dict[str, PresenceView] = {}
    for tickets in _by_server(bus, by_ticket, TICKETS_A_CALL, lambda _: 1):
        args = list[Argument]((node, lease_ms, _publish(bus)))
        for ticket in tickets:
            change = by_ticket[ticket]
            args += [ticket, bus.keys.events(ticket), int(change.snapshot), len(change.users)]
            for user, value in change.users.items():
                args += [user, *(value or ("", "", ""))]
        (replies,) = await bus.script("presence", [bus.keys.presence(ticket) for ticket in tickets], args)
        for ticket, (known, version, told) in zip(tickets, replies, strict=True):
            members = sorted((user, *value.split(":", 2)) for user, value in zip(told[::2], told[1::2], strict=True))
            views[ticket] = PresenceView(bool(known), version, members)
    return views


async def publish(bus: Bus, notices: Iterable[tuple[str, str]]) -> None:
    """Publish notices, as (ticket, JSON), on the tickets' events channels, in order. Raises Unavailable."""
    by_ticket: dict[str, list[str]] = {}
    for ticket, payload in notices:
        by_ticket.setdefault(ticket, []).append(payload)
    command = _publish(bus)
    for tickets in _by_server(bus, by_ticket, _MARKS_A_CALL, lambda ticket: len(by_ticket[ticket])):
        commands = [(command, bus.keys.events(ticket), payload) for ticket in tickets for payload in by_ticket[ticket]]
        await bus.call(bus.keys.events(tickets[0]), *commands)


def _publish(bus: Bus) -> str:
    return "SPUBLISH" if bus.features.sharded_pubsub else "PUBLISH"


def _by_server(bus: Bus, tickets: Iterable[str], most: int, weight: Callable[[str], int]) -> Iterator[list[str]]:
    """Divide *tickets* into calls: on Cluster the tickets of a partition share a slot, elsewhere all share a server."""
    groups: dict[int, list[str]] = {}
    for ticket in tickets:
        groups.setdefault(bus.keys.partition_of(ticket) if bus.keys.cluster else 0, []).append(ticket)
    for group in groups.values():
        piece: list[str] = []
        load = 0
        for ticket in group:
            if piece and (load + weight(ticket) > most or len(piece) >= TICKETS_A_CALL):
                yield piece
                piece, load = [], 0
            piece.append(ticket)
            load += weight(ticket)
        if piece:
            yield piece
