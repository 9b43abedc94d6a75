"""When a busy room's events go out: at once, or a moment later together with their successors. No I/O, no clock.

A room pays for each flush by the number of its readers (GCRA). Rooms that cost the node little never wait; one that
wants more than its share is flushed less often, but never later than the setting says after the flush before.
"""

from __future__ import annotations

from dataclasses import dataclass

# One room's share, in writes to readers. A write is a system call of 5 to 10 microseconds, so this is about a fifth of
# a core: 1,000 readers of 20 messages a second stay below it and get each message at once.
WRITES_PER_SECOND = 25_000
BURST_S = 0.2  # so many seconds' worth of writes may come at once, so that a few quick messages do not wait either
ENOUGH = 8  # events that wait are not kept any longer: eight in one write cost an eighth, more gain little


@dataclass(slots=True)
class Pace:
    """How far one room is ahead of its share. Times are seconds of one clock."""

    paid_until: float = 0.0
    flushed_at: float = float("-inf")

    def due(self, longest_s: float) -> float:
        """Say when an event should go out that begins to wait now; a time that has passed: at once.

        Never later than *longest_s* after the last flush, so what follows nothing never waits.
        """
        return min(self.paid_until - BURST_S, self.flushed_at + longest_s)

    def flushed(self, now: float, readers: int) -> None:
        """*readers* were written to."""
        # The debt is bounded: a room that has become quiet is soon treated as one.
        self.paid_until = min(max(self.paid_until, now) + readers / WRITES_PER_SECOND, now + 2 * BURST_S)
        self.flushed_at = now
