"""A room's logic, with a log that is a list and readers that keep what they are written."""

from __future__ import annotations

import asyncio
import json

from hypothesis import given
from hypothesis import strategies as st

from delivery.backlog import Page
from delivery.events import Event, plain, read_event
from delivery.fanout import Outbox, Ticker, joined
from delivery.recent import Recent
from delivery.room import Room
from schemas.events import Confirmed, plain_json
from schemas.message_id import ZERO, MessageId
from tests.unit.delivery.frames import Reader


def message(number: int, text: str = "x") -> Confirmed:
    return Confirmed("7", f"{number}-0", "1", text, number)


def payload(number: int, prev: int) -> str:
    fields = {"type": "message", "prev_id": f"{prev}-0", **json.loads(plain_json(message(number)))}
    return json.dumps(fields)


def make_room(repairs: list[str], recent: int = 8) -> Room:
    room = Room("7", Ticker(), lambda _room, cause: repairs.append(cause), recent)
    room.start(ZERO)
    return room


async def test_all_events_of_a_tick_are_one_write() -> None:
    """Joined for each reader, whoever else listens; the next tick is another write."""
    room, readers = make_room([]), [Reader(), Reader()]
    for reader in readers:
        room.join(reader, plain)
    for number in (1, 2, 3):
        room.on_message(payload(number, number - 1))
    assert readers[0].writes == []
    await asyncio.sleep(0)
    room.on_message(payload(4, 3))
    await asyncio.sleep(0)
    assert [reader.writes for reader in readers] == [[[1, 2, 3], [4]]] * 2


async def test_who_joins_in_the_middle_of_a_tick_gets_nothing_from_before() -> None:
    """What it caught up on ends where the room is, so pending events are not for it."""
    room, early, late = make_room([]), Reader(), Reader()
    room.join(early, plain)
    room.on_message(payload(1, 0))
    room.join(late, plain)
    room.on_message(payload(2, 1))
    await asyncio.sleep(0)
    assert (early.got, late.got) == ([1, 2], [2])


async def test_a_reader_that_leaves_while_it_is_written_to_disturbs_nobody() -> None:
    """A write may find its socket too slow, which then leaves the room at once."""
    room = make_room([])

    class Leaver(Reader):
        def write(self, data: bytes) -> None:
            super().write(data)
            room.leave(self, plain)

    readers = [Leaver() if number % 2 else Reader() for number in range(20)]
    for reader in readers:
        room.join(reader, plain)
    for number in (1, 2):
        room.on_message(payload(number, number - 1))
        await asyncio.sleep(0)
    assert [reader.got for reader in readers] == [[1] if number % 2 else [1, 2] for number in range(20)]
    assert room.live == 10


@given(st.data())
def test_whatever_is_lost_or_repeated_readers_get_everything_once_in_order(data: st.DataObject) -> None:
    """Wake-ups are lost, repeated and overtaken; repairs read the log at any later moment, page by page."""

    async def run() -> None:
        repairs: list[str] = []
        room, reader = make_room(repairs), Reader()
        room.join(reader, plain)
        log: list[int] = []

        def repair(size: int) -> None:
            after = [number for number in log if MessageId(number, 0) > room.position]
            room.take(Page([Event(message(number)) for number in after[:size]], len(after) > size))

        for number in range(1, 30):
            prev = log[-1] if log else 0
            log.append(number)
            if data.draw(st.booleans(), label="heard"):
                room.on_message(payload(number, prev))
            if data.draw(st.booleans(), label="repeated"):
                again = data.draw(st.integers(1, number), label="which")
                room.on_message(payload(again, again - 1))
            if repairs and data.draw(st.booleans(), label="repaired"):
                repairs.clear()
                repair(data.draw(st.integers(1, 5), label="page"))
            if data.draw(st.booleans(), label="tick"):
                await asyncio.sleep(0)
        repair(100)  # what the position check would find
        await asyncio.sleep(0)
        assert reader.got == log

    asyncio.run(run())


def test_an_event_before_the_position_is_known_makes_the_opening_read_the_log() -> None:
    """It may lie before or after the position that is being read: the log says."""
    repairs: list[str] = []
    room = Room("7", Ticker(), lambda _room, cause: repairs.append(cause), 8)
    room.on_message(payload(5, 4))
    assert repairs == []
    room.start(MessageId(4, 0))
    assert repairs == ["opening"]
    assert room.missed


@given(st.integers(0, 10), st.integers(0, 30), st.integers(0, 35))
def test_recent_gives_all_or_nothing(most: int, count: int, asked: int) -> None:
    """Either every event after the position, or None."""
    recent = Recent(most)
    for number in range(1, count + 1):
        recent.add(Event(message(number)), MessageId(number - 1, 0))
    found = recent.after(MessageId(asked, 0))
    wanted = list(range(asked + 1, count + 1))
    if found is None:
        assert len(wanted) > most or most == 0 or count == 0
    else:
        assert [event.at.ms for event in found] == wanted


@given(st.lists(st.binary(max_size=50)), st.integers(1, 120))
def test_joining_keeps_order_and_the_limit(frames: list[bytes], limit: int) -> None:
    """A frame is never split; a longer one goes alone."""
    pieces = list(joined(frames, limit))
    assert b"".join(pieces) == b"".join(frames)
    assert all(pieces)
    assert all(len(piece) <= max(limit, 50) for piece in pieces)


def test_a_payload_nobody_can_read_means_look_into_the_log() -> None:
    """Foreign publishers included; a type of a newer version is left alone."""
    for text in (
        "",
        "x",
        "null",
        "[]",
        '{"type":"message"}',
        payload(1, 0).replace("1-0", "one"),
        payload(1, 0).replace('"message": "x"', '"message": 5'),
        payload(1, 0).replace('"sender_id": "1"', '"sender_id": null'),
        payload(1, 0)[:-1] + ', "trace_id": 7}',
        payload(1, 0) + "x",
        '{"type":"changed"}',
    ):
        assert not isinstance(read_event(text), tuple)
        assert read_event(text) is not None
    assert read_event('{"type":"of_tomorrow","sender_id":"1"}') is None


async def test_a_fault_in_one_room_stops_no_other() -> None:
    """Rooms whose events came in the same tick: each is written to, and goes on afterwards."""

    class Broken(Room):
        def flush(self, outbox: Outbox | None = None) -> None:
            if self._pending:
                self._pending = []
                raise RuntimeError("a fault")

    ticker, readers = Ticker(), [Reader(), Reader()]
    rooms = [kind("7", ticker, lambda _room, _cause: None, 8) for kind in (Room, Broken, Room)]
    for room in rooms:
        room.start(ZERO)
    for room, reader in zip((rooms[0], rooms[2]), readers, strict=True):
        room.join(reader, plain)
    for number in (1, 2):
        for room in rooms:
            room.on_message(payload(number, number - 1))
        await asyncio.sleep(0)
    assert [reader.got for reader in readers] == [[1, 2], [1, 2]]


def test_bytes_that_are_not_utf8_become_question_marks() -> None:
    """A log written by somebody else's controller must not break a socket: text frames are UTF-8."""
    frame = plain(Event(message(1, "a\udcff b")))
    assert json.loads(frame[2:])["message"] == "a? b"
