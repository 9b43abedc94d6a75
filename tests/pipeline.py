"""Workers, messages and what has become of them, for tests on a real Redis and PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from schemas.entries import encode_submitted
from schemas.events import Submitted
from schemas.message_id import ZERO
from tests.until import scaled, until
from ticketwire.archive.messages import Archive, open_archive
from ticketwire.archive.reviews import Reviews
from ticketwire.bus import log
from ticketwire.bus.bus import Bus, open_bus
from ticketwire.settings import SharedSettings
from workers.app import make_fleet
from workers.fleet import Fleet
from workers.moderation.service import Moderation, open_moderation
from workers.settings import WorkerSettings


def make_settings(redis_url: str, postgres_url: str, **more: object) -> WorkerSettings:
    shared = SharedSettings(  # type: ignore[call-arg]
        redis_url=redis_url,  # type: ignore[arg-type]
        database_url=postgres_url,  # type: ignore[arg-type]
        auth="off",
        lease_ttl_ms=1_000,
        partitions=4,
        redis_timeout_ms=500,
    )
    return WorkerSettings(shared=shared, backoff_base_ms=20, backoff_cap_ms=200, **more)  # type: ignore[arg-type]


@asynccontextmanager
async def open_all(settings: WorkerSettings) -> AsyncIterator[tuple[Bus, Archive]]:
    url = settings.shared.database_url.get_secret_value()
    async with open_bus(settings.shared) as bus, open_archive(url, timeout_s=2) as archive:
        await bus.check()
        yield bus, archive


@asynccontextmanager
async def working(core: tuple[Bus, Archive], settings: WorkerSettings) -> AsyncIterator[Fleet]:
    """A worker that is told to stop in the end and must then stop by itself."""
    fleet = make_fleet(*core, settings)
    async with asyncio.TaskGroup() as group:  # a fleet that dies takes the test along, with its reason
        task = group.create_task(fleet.run())
        yield fleet
        fleet.quiet()
        await asyncio.wait_for(task, scaled(10))


async def submit(bus: Bus, ticket: str, body: str, **more: str) -> str:
    stream = bus.keys.ingest(bus.keys.partition_of(ticket))
    fields = encode_submitted(Submitted(ticket_id=ticket, sender_id="1", message=body, **more))  # type: ignore[arg-type]
    return str(await bus.command(stream, "XADD", stream, "*", *fields))


async def raw(bus: Bus, ticket: str, *fields: str | bytes) -> str:
    stream = bus.keys.ingest(bus.keys.partition_of(ticket))
    return str(await bus.command(stream, "XADD", stream, "*", *fields))


async def backlog(bus: Bus) -> int:
    streams = [bus.keys.ingest(p) for p in range(bus.keys.partitions)]
    return sum([int(await bus.command(s, "XLEN", s)) for s in streams])


async def drained(bus: Bus) -> None:
    async def empty() -> bool:
        return await backlog(bus) == 0

    await until(empty, timeout_s=20)


async def shown(bus: Bus, ticket: str) -> list[tuple[str, str]]:
    return [(e.message_id, e.message) for e in (await log.read_after(bus, ticket, ZERO)).events]


async def archived(archive: Archive, ticket: str) -> list[tuple[str, str]]:
    return [(e.message_id, e.message) for e in await archive.history(ticket, after=ZERO, limit=1_000)]


async def letters(bus: Bus) -> list[dict[str, str]]:
    out = []
    for p in range(bus.keys.partitions):
        key = bus.keys.dead(p)
        for _, fields in await bus.command(key, "XRANGE", key, "-", "+"):
            out.append(dict(zip(fields[::2], fields[1::2], strict=True)))
    return out


async def check_tickets(core: tuple[Bus, Archive], sent: dict[str, list[tuple[str, str]]]) -> None:
    for ticket, messages in sent.items():
        assert await shown(core[0], ticket) == messages
        assert await archived(core[1], ticket) == messages


async def flood(bus: Bus, tickets: int, each: int) -> dict[str, list[tuple[str, str]]]:
    sent: dict[str, list[tuple[str, str]]] = {f"T{n}": [] for n in range(tickets)}
    for n in range(each):
        for ticket, messages in sent.items():
            messages.append((await submit(bus, ticket, f"{ticket} {n}"), f"{ticket} {n}"))
    return sent


async def flood_one(bus: Bus, ticket: str, each: int) -> list[tuple[str, str]]:
    return [(await submit(bus, ticket, f"{ticket} {n}"), f"{ticket} {n}") for n in range(each)]


@asynccontextmanager
async def moderating(core: tuple[Bus, Archive], settings: WorkerSettings, policy: Path) -> AsyncIterator[Moderation]:
    async with open_moderation(policy, Reviews(core[1].database)) as moderation:
        fleet = make_fleet(*core, settings, moderation.for_partition)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(fleet.run())
            yield moderation
            fleet.quiet()
            await asyncio.wait_for(task, scaled(10))


async def everywhere(core: tuple[Bus, Archive]) -> str:
    """All that Redis and PostgreSQL hold, as text."""
    out = []
    for key in await core[0].command("x", "KEYS", "*"):
        kind = await core[0].command(key, "TYPE", key)
        read = {"stream": ("XRANGE", key, "-", "+"), "string": ("GET", key), "hash": ("HGETALL", key)}.get(kind)
        out.append(json.dumps([key, await core[0].command(key, *read) if read else None]))
    for table in ("messages", "audit", "dead_letters", "reviews"):
        rows = await core[1].database.fetch(f"SELECT t::text AS row FROM {table} AS t")
        out += [row["row"] for row in rows]
    return "\n".join(out)
