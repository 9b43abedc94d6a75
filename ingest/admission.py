"""Decide whether a message may come in: backlog, Redis memory, draining. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ticketwire.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Marks:
    """Where a door closes (high water) and where it opens again (low water), so that it does not flutter."""

    max_backlog: int  # entries of one partition
    low_backlog: int
    max_memory: float  # used share of Redis's maxmemory
    low_memory: float


class Admission:
    """The doors: one per partition, one for all. Everything it knows it is told."""

    def __init__(self, marks: Marks, retry_after_s: int = 2) -> None:
        self.marks = marks
        self._retry_after_s = retry_after_s
        self._partitions = 0
        self._closed: dict[int, int] = {}  # partition -> its backlog, when last seen
        self._memory: float | None = None  # the share that closed the common door; None while it is open
        # Until the deployment has been looked at nobody knows whether its partitions are ours.
        self._away: str | None = "Redis was not reached yet"
        self._draining = False

    def observe(self, backlog: Sequence[int], memory: float) -> None:
        """Take in a look at Redis: entries of each partition, and the used share of memory."""
        marks = self.marks
        self._partitions = len(backlog)
        for partition, entries in enumerate(backlog):
            mark = marks.low_backlog if partition in self._closed else marks.max_backlog
            if entries > mark:
                self._closed[partition] = entries
            else:
                self._closed.pop(partition, None)
        mark_memory = marks.max_memory if self._memory is None else marks.low_memory
        self._memory = memory if memory > mark_memory else None
        self._away = None

    def shut(self, why: str) -> None:
        """Close all doors until the next `observe`: what is behind them is not known."""
        self._away = why

    def drain(self) -> None:
        """Close all doors for good: this node is stopping."""
        self._draining = True

    @property
    def open(self) -> bool:
        """Whether every message may come in; then nobody need ask about partitions."""
        return not (self._closed or self._draining) and self._memory is None and self._away is None

    @property
    def closed_partitions(self) -> int:
        """How many partitions refuse their messages."""
        return self._partitions if self._for_all() else len(self._closed)

    def refusal(self, partition: int) -> Unavailable | None:
        """Return why a message of *partition* is turned away, or None."""
        if self.open:
            return None
        refusal = self._for_all()
        entries = self._closed.get(partition)
        if refusal is None and entries is not None:
            refusal = Unavailable(
                f"{entries:,} messages of partition {partition} wait for the workers, {self.marks.max_backlog:,} may",
                code="backlog",
                retry_after_s=self._retry_after_s,
            )
        return refusal

    def _for_all(self) -> Unavailable | None:
        if self._draining:
            return Unavailable("this node is stopping", code="draining")
        if self._away is not None:
            return Unavailable(self._away)
        if self._memory is not None:
            return Unavailable(
                f"Redis has {self._memory:.0%} of its memory in use, {self.marks.max_memory:.0%} may be",
                code="backlog",
                retry_after_s=self._retry_after_s,
            )
        return None
