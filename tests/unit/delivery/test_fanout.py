"""What one reader does while it is written to must not touch the others."""

from __future__ import annotations

import asyncio
import json

from delivery.events import Encoding, plain
from delivery.fanout import Fanout, Ticker
from delivery.frames import sse
from delivery.room import Room
from schemas.events import Confirmed, plain_json
from schemas.message_id import ZERO


class Reader:
    """Counts writes; a stalled one leaves at the first."""

    def __init__(self, room: Fanout, encoding: Encoding, *, stalled: bool = False) -> None:
        self._room, self._encoding, self._stalled = room, encoding, stalled
        self.writes = 0
        room.join(self, encoding)

    def write(self, data: bytes) -> None:
        self.writes += 1
        if self._stalled:
            self._room.leave(self, self._encoding)


def make_room(ticker: Ticker, ticket: str) -> Room:
    room = Room(ticket, ticker, lambda _room, _cause: None, 8)
    room.start(ZERO)
    return room


def payload(ticket: str) -> str:
    fields = json.loads(plain_json(Confirmed(ticket, "1-0", "1", "x", 1)))
    return json.dumps({"type": "message", "prev_id": "0-0", **fields})


async def test_the_last_reader_of_a_kind_leaves_while_it_is_written_to() -> None:
    """A full buffer closes the only plain socket of a ticket in the midst of a tick: everybody else gets the event.

    It used to end the tick: readers of other kinds missed the event, and rooms that were to follow were stuck for good.
    """
    ticker = Ticker()
    one, two = make_room(ticker, "1"), make_room(ticker, "2")
    stalled, others = Reader(one, plain, stalled=True), [Reader(one, sse), Reader(two, plain)]
    for room in (one, two):
        room.on_message(payload(room.ticket))
    await asyncio.sleep(0)
    assert [reader.writes for reader in (stalled, *others)] == [1, 1, 1]
