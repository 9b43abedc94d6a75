"""Whether Redis still is what it was: what it goes by changes when it may have lost something."""

from __future__ import annotations

import secrets

from ticketwire.bus.bus import Bus, checked


async def histories(bus: Bus) -> frozenset[str]:
    """Name what the servers remember. Raises Unavailable.

    Another answer than before means that a server was restarted, that a replica was promoted (another process, so
    another run id), or that keys were removed (the marker, a key that is never removed, is made anew). Whether
    something was lost then is for others to find out. A moved slot changes it too, to no harm.
    """
    first: dict[object, int] = {}  # of each server the first partition that it holds
    for partition in range(bus.keys.partitions):
        first.setdefault(await bus.topology.node_for(bus.keys.ingest(partition)), partition)
    found = set()
    for partition in first.values():
        marker = bus.keys.history(partition)
        made, name, info = await bus.call(
            marker, ("SET", marker, secrets.token_hex(8), "NX"), ("GET", marker), ("INFO", "server")
        )
        checked(made)
        run_id = next(line for line in str(checked(info)).splitlines() if line.startswith("run_id:"))
        found.add(f"{marker} {checked(name)} {run_id}")
    return frozenset(found)
