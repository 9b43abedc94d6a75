"""A v1 client in several tickets gets what happens in one tick of the event loop in one write."""

from __future__ import annotations

import asyncio
import json

from delivery.clients import NodeLoad
from delivery.events import plain
from delivery.fanout import WRITE_BYTES, Ticker
from delivery.members import Members
from delivery.room import Room
from delivery.seat import Seat
from schemas.events import Confirmed, event_tail
from schemas.message_id import ZERO
from tests.unit.delivery.frames import taken_apart


class Socket:
    """Keeps what it is written."""

    paused = closing = deflates = False

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    @property
    def got(self) -> list[str]:
        return [text for data in self.writes for text in texts(data)]


def texts(data: bytes) -> list[str]:
    """The `message` of each frame."""
    return [json.loads(payload)["message"] for _, payload in taken_apart(data)]


class Owner:
    """A client whose window never ends."""

    def __init__(self) -> None:
        self.socket = Socket()

    def share(self) -> tuple[int, int]:
        return 10**9, 10**9

    async def ready(self, seat: Seat) -> None:
        raise AssertionError("nobody pauses here")

    def follow(self, seat: Seat, position: object) -> None:
        raise AssertionError("nobody pauses here")


class World:
    """Some tickets in which clients sit."""

    def __init__(self, tickets: int) -> None:
        ticker = Ticker()
        self.rooms = [Room(str(number), ticker, lambda room, cause: None, 8) for number in range(tickets)]
        for room in self.rooms:
            room.start(ZERO)

    def client(self, *tickets: int, user: str = "anna") -> Socket:
        owner = Owner()
        for ticket in tickets:
            room = self.rooms[ticket]
            members = room.members(lambda: Members(ZERO, 100, NodeLoad()))
            assert members is not None
            seat = Seat(owner, room.ticket, user)
            seat.begin(members, room.position, resumes=False)
            seat.join(room)
        return owner.socket

    def say(self, ticket: int, text: str, sender: str = "ben") -> None:
        room = self.rooms[ticket]
        entry = Confirmed(room.ticket, f"{room.position.ms + 1}-0", sender, text, 1, client_message_id=f"c{text[:9]}")
        room.on_message(f'{{"prev_id":"{room.position}",{event_tail(entry)}')


async def test_events_of_several_tickets_in_one_tick_are_one_write() -> None:
    """In the order of their tickets' first events; whoever sits in one of them gets only that one's."""
    world = World(3)
    all_three, two, one = world.client(0, 1, 2), world.client(1, 2), world.client(0)
    for ticket, text in ((0, "a"), (1, "b"), (0, "c"), (2, "d")):
        world.say(ticket, text)
    await asyncio.sleep(0)
    assert [len(socket.writes) for socket in (all_three, two, one)] == [1, 1, 1]
    assert [socket.got for socket in (all_three, two, one)] == [["a", "c", "b", "d"], ["b", "d"], ["a", "c"]]
    world.say(1, "e")
    await asyncio.sleep(0)
    assert [socket.got for socket in (all_three, two, one)] == [["a", "c", "b", "d", "e"], ["b", "d", "e"], ["a", "c"]]


async def test_one_write_stays_within_its_bytes() -> None:
    """So that a socket's bound holds though tickets are joined."""
    world = World(4)
    socket = world.client(0, 1, 2, 3)
    for ticket in range(4):
        world.say(ticket, str(ticket) * 30_000)
    await asyncio.sleep(0)
    assert [text[:1] for text in socket.got] == ["0", "1", "2", "3"]
    assert [len(data) <= WRITE_BYTES for data in socket.writes] == [True, True]


async def test_authors_and_plain_readers_get_theirs_beside_it() -> None:
    """Each kind its own bytes, in the same tick."""
    world = World(2)
    anna, ben, reader = world.client(0, 1), world.client(0, 1, user="ben"), Socket()
    world.rooms[1].join(reader, plain)
    world.say(0, "a")
    world.say(1, "b")
    await asyncio.sleep(0)
    assert anna.got == ben.got == ["a", "b"]
    assert reader.got == ["b"]
    assert b"client_message_id" in ben.writes[0]
    assert b"client_message_id" not in anna.writes[0]
    assert [len(socket.writes) for socket in (anna, ben, reader)] == [1, 1, 1]


async def test_a_ticket_that_is_flushed_early_goes_first() -> None:
    """Somebody joins one of the rooms in the middle of the tick: each ticket's own order stays."""
    world = World(2)
    anna = world.client(0, 1)
    world.say(1, "a")
    world.say(0, "b")
    world.rooms[0].flush()
    world.say(0, "c")
    await asyncio.sleep(0)
    assert anna.got == ["b", "a", "c"]
