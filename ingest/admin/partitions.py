"""Partitions and workers as they are now, with rates from two looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ticketwire.bus.overview import PartitionView

SHORTEST_MS = 500  # between two looks, for a rate that means something
LONGEST_MS = 60_000


def partition_json(view: PartitionView, before: PartitionView | None) -> dict[str, Any]:
    """One partition; times in Unix milliseconds of Redis's clock."""
    return {
        "partition": view.partition,
        "backlog": view.backlog,
        "pending": view.pending,
        "oldest_age_ms": None if view.oldest_at_ms is None else max(0, view.at_ms - view.oldest_at_ms),
        "owner": view.owner if view.owned else None,
        "epoch": view.epoch,
        "lease_ends_at_ms": view.lease_ends_at_ms or None,
        "done": view.done,
        "settled": view.settled,
        "settled_per_second": rate(view, before),
        "dead_letters": view.dead,
        "at_ms": view.at_ms,
    }


def rate(view: PartitionView, before: PartitionView | None) -> float | None:
    """Entries settled per second since *before*; None where that cannot be said."""
    if before is None or not SHORTEST_MS <= view.at_ms - before.at_ms <= LONGEST_MS:
        return None
    if view.settled < before.settled:  # Redis was emptied in between
        return None
    return round((view.settled - before.settled) * 1000 / (view.at_ms - before.at_ms), 3)


def workers_json(now: int, workers: Sequence[tuple[str, int]], views: Sequence[PartitionView]) -> list[dict[str, Any]]:
    """The workers that said that they live, and those that hold a lease without having said so."""
    owned: dict[str, list[int]] = {}
    for view in views:
        if view.owned:
            owned.setdefault(view.owner, []).append(view.partition)
    until: Mapping[str, int] = dict(workers)
    return [
        {
            "worker": name,
            "alive": until.get(name, 0) > now,
            "heartbeat_ends_at_ms": until.get(name),
            "partitions": owned.get(name, []),
        }
        for name in sorted(until.keys() | owned.keys())
    ]
