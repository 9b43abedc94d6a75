"""The state of long admin jobs, in Redis so that any process can tell it."""

from __future__ import annotations

import json
from typing import Any

from schemas import keys as names
from ticketwire.bus.bus import Bus, checked

KEPT_MS = 86_400_000
ALIVE_MS = 10_000  # whoever works on a job saves it more often than this


class Jobs:
    """Save and load jobs as JSON objects with at least `job_id` and `state`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def save(self, job: dict[str, Any]) -> None:
        """Store *job*; while its state is `running`, say that somebody works on it."""
        key = self._bus.keys.job(job["job_id"])
        alive = ("SET", key + ":alive", "1", "PX", ALIVE_MS) if job["state"] == "running" else ("DEL", key + ":alive")
        for reply in await self._bus.call(key, ("SET", key, json.dumps(job), "PX", KEPT_MS), alive):
            checked(reply)

    async def load(self, job_id: str) -> dict[str, Any] | None:
        """Return a job; one that runs with nobody working on it has the state `lost`."""
        key = self._bus.keys.job(job_id)
        text, alive = (checked(r) for r in await self._bus.call(key, ("GET", key), ("EXISTS", key + ":alive")))
        if text is None:
            return None
        job: dict[str, Any] = json.loads(text)
        if job["state"] == "running" and not alive:
            job["state"] = "lost"
        return job


async def become_keeper(bus: Bus, who: str, ttl_ms: int) -> bool:
    """Whether *who* is the one process that looks after old dead letters for the next *ttl_ms*.

    Only to save work: what the keeper does may be done by two at once.
    """
    return bool(await bus.command(names.KEEPER, "SET", names.KEEPER, who, "NX", "PX", ttl_ms))
