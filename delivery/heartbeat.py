"""Pings for thousands of sockets from one timer. No I/O."""

from __future__ import annotations

import math
from typing import Protocol


class Pinged(Protocol):
    """A socket as the wheel sees it. *spoke* is the wheel's own note."""

    spoke: int

    def ping(self) -> None:
        """Send a ping and remember that the answer is due."""

    def expect_pong(self) -> None:
        """The answer is due now: close if nothing was heard since the ping."""


SPOKES = 25  # one second each at the default interval, so pings are spread over it


class Wheel:
    """Each member sits on one spoke; a turn pings one spoke and asks after the pongs of an earlier one."""

    def __init__(self, ping_s: float, pong_s: float) -> None:
        self.turn_s = ping_s / SPOKES  # between calls of `turn`
        self._lag = max(1, min(SPOKES - 1, math.ceil(pong_s / self.turn_s)))  # turns from a ping to its deadline
        self._spokes: list[set[Pinged]] = [set() for _ in range(SPOKES)]
        self._at = 0

    def __len__(self) -> int:
        return sum(map(len, self._spokes))

    def members(self) -> list[Pinged]:
        return [member for spoke in self._spokes for member in spoke]

    def add(self, member: Pinged) -> None:
        """Its first ping comes a whole interval from now, as members come at all times."""
        member.spoke = self._at
        self._spokes[self._at].add(member)

    def remove(self, member: Pinged) -> None:
        self._spokes[member.spoke].discard(member)

    def turn(self) -> None:
        """Call once every `turn_s` seconds."""
        self._at = (self._at + 1) % SPOKES
        for member in list(self._spokes[self._at - self._lag]):
            member.expect_pong()
        for member in list(self._spokes[self._at]):
            member.ping()
