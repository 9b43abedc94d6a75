"""How full Redis is: backlog of every partition and memory of every server, in one exchange per server."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from redis.exceptions import MovedError, ResponseError

from ticketwire.bus.bus import Bus
from ticketwire.bus.connection import Command, Node
from ticketwire.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Load:
    """One look at a whole deployment."""

    backlog: tuple[int, ...]  # entries on the ingest stream of each partition: accepted and not yet settled
    memory: float  # used share of `maxmemory` of the fullest server; 0.0 where no limit is set


async def measure(bus: Bus, timeout_s: float) -> Load:
    """Ask every server. Raises Unavailable when one does not answer or the Cluster's map is out of date."""
    held: dict[Node, list[int]] = {node: [] for node in await bus.topology.all_nodes()}
    for partition in range(bus.keys.partitions):
        held.setdefault(await bus.topology.node_for(bus.keys.ingest(partition)), []).append(partition)
    backlog = [0] * bus.keys.partitions
    try:
        shares = await asyncio.gather(*(_of_node(bus, node, held[node], backlog, timeout_s) for node in held))
    except Unavailable:
        await bus.topology.refresh()
        raise
    return Load(tuple(backlog), max(shares, default=0.0))


async def _of_node(bus: Bus, node: Node, partitions: list[int], backlog: list[int], timeout_s: float) -> float:
    commands: list[Command] = [("INFO", "memory")]
    commands += [("XLEN", bus.keys.ingest(partition)) for partition in partitions]
    info, *lengths = await node.exchange(commands, timeout_s)
    for partition, length in zip(partitions, lengths, strict=True):
        if isinstance(length, MovedError):
            raise Unavailable("Redis: a partition moved to another node of the Cluster")
        backlog[partition] = _readable(length)
    return memory_share(_readable(info))


def _readable(reply: Any) -> Any:
    # Whatever Redis has against being looked at (a key of another type, a right taken away), the tier says so and
    # lives on: it may be mended while we run.
    if isinstance(reply, ResponseError):
        raise Unavailable(f"Redis: {reply}") from reply
    return reply


def memory_share(info: str) -> float:
    """Read the used share of `maxmemory` from the reply of `INFO memory`; 0.0 without a limit.

    What replicas and the append-only file buffer does not count, as Redis itself does not count it.
    """
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    limit = int(fields.get("maxmemory", 0))
    used = int(fields.get("used_memory", 0)) - int(fields.get("mem_not_counted_for_evict", 0))
    return used / limit if limit else 0.0
