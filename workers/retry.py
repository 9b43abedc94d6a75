"""When to try an entry alone, when to bury it, how to split a batch. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import TypeVar

T = TypeVar("T")


class Care(Enum):
    """How to handle an entry that was handed out before."""

    TOGETHER = "together"  # in a batch, like a new one
    ALONE = "alone"  # it may have killed its workers: by itself, its attempt counted first
    BURY = "bury"  # it had its chances


def care_for(deliveries: int, max_deliveries: int) -> Care:
    """Decide by how often the entry was handed out to workers that then died.

    Only the first death takes the whole batch under suspicion; from the second on each entry is tried alone, and
    only the one in hand is counted, so that its neighbours are not buried with a poisonous entry.
    """
    if deliveries >= max_deliveries:
        return Care.BURY
    return Care.ALONE if deliveries >= 2 else Care.TOGETHER


def halves(items: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
    """Split a batch that was refused as a whole; its order stays."""
    middle = len(items) // 2
    return items[:middle], items[middle:]


def runs(items: Sequence[T], alone: Callable[[T], bool]) -> list[Sequence[T]]:
    """Cut *items* into stretches that are handled at once: one of each item that is *alone*, the rest together."""
    out: list[Sequence[T]] = []
    start = 0
    for nr, item in enumerate(items):
        if alone(item):
            if start < nr:
                out.append(items[start:nr])
            out.append(items[nr : nr + 1])
            start = nr + 1
    if start < len(items):
        out.append(items[start:])
    return out
