"""The admin API inside the test's own event loop, on a real port, Redis and PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx

from ingest.admin.app import create_admin_app
from ingest.settings import IngestSettings
from tests.pipeline import raw
from tests.until import scaled, until
from ticketwire.archive.messages import Archive
from ticketwire.bus.bus import Bus
from ticketwire.lifecycle import Lifecycle
from ticketwire.serving import bind, http_server, port_of, uvicorn_config
from workers.settings import WorkerSettings

KEY = "a-key-for-the-tests-only"
_sequence = count()  # ids of one millisecond


@dataclass(slots=True)
class Api:
    """A running admin API and a client of it that has the key."""

    client: httpx.AsyncClient
    url: str

    async def get(self, path: str, **params: Any) -> dict[str, Any]:
        answer = await self.client.get(f"/admin/{path}", params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self.client.post(f"/admin/{path}", json=body)

    async def done(self, answer: httpx.Response) -> dict[str, Any]:
        """The job of *answer* once it has ended."""
        assert answer.status_code in (200, 202), answer.text
        job: dict[str, Any] = answer.json()

        async def ended() -> dict[str, Any] | None:
            found = await self.get(f"jobs/{job['job_id']}")
            return found if found["state"] != "running" else None

        return job if answer.status_code == 200 else await until(ended, timeout_s=20)

    async def letters(self, **params: Any) -> list[dict[str, Any]]:
        """All pages of the list."""
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = await self.get("dead-letters", **params, cursor=cursor)
            found += page["letters"]
            if page["next_cursor"] is None:
                return found
            cursor = page["next_cursor"]


@asynccontextmanager
async def running_api(settings: WorkerSettings, **options: Any) -> AsyncIterator[Api]:
    """Serve the API for the deployment of *settings*; *options* are ingest's own settings."""
    given = {"admin_key": KEY, "shared": settings.shared, **options}
    lifecycle = Lifecycle(scaled(10))
    bound = bind("127.0.0.1", 0, "INGEST_ADMIN_PORT")
    url = f"http://127.0.0.1:{port_of(bound)}"
    async with (
        http_server(uvicorn_config(create_admin_app(IngestSettings(**given))), bound, lifecycle),
        httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {KEY}", "X-Actor": "ann"}, timeout=scaled(30)
        ) as client,
    ):
        yield Api(client, url)


async def bury_some(bus: Bus, tickets: int, each: int) -> dict[str, list[str]]:
    """Put entries on the streams that a worker will bury, and return their ids by ticket."""
    ids: dict[str, list[str]] = {f"T{n}": [] for n in range(tickets)}
    for n in range(each):
        for ticket, found in ids.items():
            # No worker can read version 9; one that can might come tomorrow.
            fields = ["v", "9", "ticket_id", ticket, "sender_id", "1", "message", f"{ticket} {n}"]
            found.append(await raw(bus, ticket, *fields))
    return ids


async def letter_of(bus: Bus, ticket: str, message: str, *, reason: str = "poison", **more: str) -> str:
    """Write a dead letter of a message that any worker can read, as if it had been buried; return its entry's id."""
    from schemas.entries import encode_submitted
    from schemas.events import Submitted
    from ticketwire.bus.partition import dead_letter
    from ticketwire.errors import Rejected

    partition = bus.keys.partition_of(ticket)
    dead = bus.keys.dead(partition)
    given: dict[str, Any] = {"ticket_id": ticket, "sender_id": "1", "message": message, **more}
    fields = encode_submitted(Submitted(**given))
    # Never on the ingest stream, where a worker of the test might take it.
    seconds, micros = await bus.command(dead, "TIME")
    ms = int(seconds) * 1000 + int(micros) // 1000
    entry_id = f"{ms}-{next(_sequence)}"
    envelope = dead_letter(
        entry_id, fields, Rejected(reason, "as the test wants it"),
        stage="worker", attempts=5, first_at_ms=ms, last_at_ms=ms, worker="w-1",
    )  # fmt: skip
    await bus.command(dead, "XADD", dead, entry_id, *envelope)
    return entry_id


Core = tuple[Bus, Archive]
