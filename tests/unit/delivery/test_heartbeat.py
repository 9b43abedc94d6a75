"""One timer for all pings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from delivery.heartbeat import SPOKES, Wheel


class Member:
    def __init__(self, wheel: Wheel) -> None:
        self.spoke = -1
        self.events: list[tuple[int, str]] = []
        self.turns = 0
        wheel.add(self)

    def ping(self) -> None:
        self.events.append((self.turns, "ping"))

    def expect_pong(self) -> None:
        self.events.append((self.turns, "pong"))


@given(st.integers(0, 3 * SPOKES), st.floats(0.1, 24))
def test_each_member_is_pinged_once_an_interval_and_asked_after_the_pong(joined_at: int, pong_s: float) -> None:
    """Whenever it joined; the answer may take at least `pong_s`, and at most a turn more."""
    wheel = Wheel(25.0, pong_s)
    assert wheel.turn_s == 1.0
    for _ in range(joined_at):
        wheel.turn()
    member = Member(wheel)
    for _ in range(3 * SPOKES):
        member.turns += 1
        wheel.turn()
    pings = [at for at, what in member.events if what == "ping"]
    pongs = [at for at, what in member.events if what == "pong"]
    assert pings == [SPOKES, 2 * SPOKES, 3 * SPOKES]
    asked = [min(at for at in pongs if at > ping) - ping for ping in pings[:-1]]
    assert all(pong_s <= wait <= max(pong_s + 1, 1) for wait in asked)


def test_a_member_that_left_is_left_alone() -> None:
    """Also when it never joined."""
    wheel = Wheel(25.0, 10.0)
    member = Member(wheel)
    wheel.remove(member)
    wheel.remove(member)
    for _ in range(2 * SPOKES):
        wheel.turn()
    assert member.events == []
    assert len(wheel) == 0
