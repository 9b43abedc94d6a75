"""When events of busy rooms wait for each other, and that nothing is lost or late by it."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delivery.events import Event, plain
from delivery.fanout import Fanout, Ticker
from delivery.pacing import ENOUGH, WRITES_PER_SECOND, Pace
from schemas.events import Confirmed
from tests.unit.delivery.frames import Reader
from tests.until import until

LONGEST_S = 0.025


def event(number: int) -> Event:
    return Event(Confirmed("7", f"{number}-0", "1", "x", number))


class BusyPace(Pace):
    """A room that has used up its share for good."""

    def flushed(self, now: float, readers: int) -> None:
        self.paid_until, self.flushed_at = now + 1_000, now


def busy(ticker: Ticker) -> tuple[Fanout, Reader]:
    fanout, reader = Fanout(ticker), Reader()
    fanout._pace = BusyPace()
    fanout.join(reader, plain)
    return fanout, reader


@given(st.lists(st.floats(0, 0.2), max_size=200), st.integers(0, 5_000), st.floats(0, LONGEST_S))
def test_nothing_waits_longer_than_the_setting(gaps: list[float], readers: int, longest_s: float) -> None:
    """Counted from the flush before, whatever came in whatever rhythm to however many readers."""
    pace, now = Pace(), 1_000.0
    for gap in gaps:
        now += gap
        due = pace.due(longest_s)
        assert due - now <= longest_s + 1e-9
        if gap > longest_s:
            assert due <= now, "a message after a pause was delayed"
        now = max(now, due)
        pace.flushed(now, readers)


@pytest.mark.parametrize(
    ("readers", "per_second", "waits"),
    [(1_000, 20, False), (2, 1_000, False), (50, 400, False), (1_000, 100, True), (100, 1_000, True)],
)
def test_only_a_room_above_its_share_waits(readers: int, per_second: int, waits: bool) -> None:
    """1,000 readers of 20 messages a second are quiet enough; at five times the rate messages share writes."""
    assert waits is (readers * per_second > WRITES_PER_SECOND)
    pace, waited = Pace(), 0
    for number in range(10 * per_second):
        now = 1_000 + number / per_second
        if pace.due(LONGEST_S) > now:
            waited += 1
        else:
            pace.flushed(now, readers)
    assert (waited > 0) is waits


def test_a_few_quick_messages_do_not_wait() -> None:
    """Somebody who writes three lines in a large but quiet room is seen at once; and again after a storm's end."""
    pace, now = Pace(), 1_000.0
    for _ in range(3):
        assert pace.due(LONGEST_S) <= now
        pace.flushed(now, 1_000)
        now += 0.001
    for _ in range(1_000):
        now = max(now, pace.due(LONGEST_S))
        pace.flushed(now, 1_000)
    assert pace.due(LONGEST_S) > now
    now += 1.0
    for _ in range(3):
        assert pace.due(LONGEST_S) <= now
        pace.flushed(now, 1_000)
        now += 0.001


async def test_the_first_of_a_burst_goes_at_once_and_the_others_together() -> None:
    """Never later than the setting says, in order, and the lone message of a quiet room in its own tick."""
    fanout, reader = busy(Ticker(0.02))
    fanout.emit(event(1))
    await asyncio.sleep(0)
    assert reader.writes == [[1]]
    for number in (2, 3):
        fanout.emit(event(number))
        await asyncio.sleep(0)
    assert reader.writes == [[1]]
    await until(lambda: reader.writes == [[1], [2, 3]])


async def test_one_timer_serves_all_rooms() -> None:
    """Each room is flushed at its own time, and a room that is due earlier than the timer sets it back."""
    loop = asyncio.get_running_loop()
    ticker = Ticker(10.0)
    rooms = [busy(ticker) for _ in range(3)]
    for number, (fanout, _) in enumerate(rooms):
        fanout._pace.flushed_at = time.monotonic() - 10 + (0.09, 0.06, 0.03)[number]
        fanout._pace.paid_until = time.monotonic() + 1_000
        fanout.emit(event(1))
    timers = [handle for handle in loop._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
    assert len(timers) == 1
    order: list[int] = []
    for number, (_, reader) in enumerate(rooms):
        reader.write = lambda _data, number=number: order.append(number)  # type: ignore[method-assign,misc]
    await until(lambda: len(order) == 3)
    assert order == [2, 1, 0]


async def test_enough_events_wait_no_longer() -> None:
    """A room at its limit is bounded by writes, not by the time each is held."""
    fanout, reader = busy(Ticker(1_000.0))
    fanout.emit(event(0))
    await asyncio.sleep(0)
    for number in range(1, ENOUGH + 1):
        fanout.emit(event(number))
        await asyncio.sleep(0)
    assert reader.writes == [[0], list(range(1, ENOUGH + 1))]


async def test_what_is_held_is_written_before_a_reader_joins_and_before_the_node_closes() -> None:
    """The new reader has it from its catch-up, the others have it now; a draining node holds nothing any more."""
    ticker = Ticker(1_000.0)
    fanout, early = busy(ticker)
    fanout.emit(event(1))
    await asyncio.sleep(0)
    fanout.emit(event(2))
    late = Reader()
    fanout.join(late, plain)
    assert (early.got, late.got) == ([1, 2], [])
    fanout.emit(event(3))
    await asyncio.sleep(0)
    assert late.got == []
    ticker.hold_nothing()
    assert (early.got, late.got) == ([1, 2, 3], [3])
    fanout.emit(event(4))
    await asyncio.sleep(0)
    assert (early.got, late.got) == ([1, 2, 3, 4], [3, 4])


@settings(max_examples=40)
@given(st.data())
def test_readers_that_come_and_go_while_events_are_held_get_each_event_once(data: st.DataObject) -> None:
    """From where they joined to where they left, in order."""

    async def run() -> None:
        ticker = Ticker(0.001)
        fanout, _ = busy(ticker)
        here: list[tuple[Reader, int]] = []
        for number in range(1, 40):
            match data.draw(st.sampled_from(("emit", "join", "leave", "tick", "wait"))):
                case "join":
                    reader = Reader()
                    fanout.join(reader, plain)
                    here.append((reader, number))
                case "leave" if here:
                    reader, since = here.pop()
                    fanout.leave(reader, plain)
                    assert reader.got == sorted(set(reader.got))
                    assert all(since <= got for got in reader.got)
                case "tick":
                    await asyncio.sleep(0)
                case "wait":
                    await asyncio.sleep(0.002)
            fanout.emit(event(number))
        ticker.hold_nothing()
        fanout.flush()
        for reader, since in here:
            assert reader.got == list(range(since, 40))

    asyncio.run(run())
