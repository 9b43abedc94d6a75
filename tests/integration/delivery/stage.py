"""The whole product as processes, and what a test of many readers asks of it: send, settle, tell what was confirmed."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from schemas.message_id import ZERO, MessageId
from tests.faults.load import Producer
from tests.faults.stack import PARTITIONS, Stack, Tier, running
from tests.pipeline import backlog
from tests.until import scaled, until
from ticketwire.archive.messages import Archive, open_archive
from ticketwire.bus.bus import Bus, open_bus
from ticketwire.bus.readers import standing
from ticketwire.settings import SharedSettings

BATCH_LINES = 500
_HISTORY = 1_000


class Stage:
    """Tiers, and a look behind them. Use `staged`."""

    def __init__(self, stack: Stack, bus: Bus, archive: Archive) -> None:
        self.stack = stack
        self.bus = bus
        self.archive = archive

    @property
    def ports(self) -> list[int]:
        return [node.port for node in self.stack.deliveries]

    # --- sending

    async def send(self, ticket: str, texts: Iterable[str]) -> list[str]:
        """Send messages to one ticket in order; return their ids once they are confirmed."""
        return await self.send_each((ticket, one) for one in texts)

    async def send_each(self, messages: Iterable[tuple[str, str]]) -> list[str]:
        """Send messages, each to its ticket, in order by `/chat/batch`; return their ids once they are confirmed."""
        lines = [{"ticket_id": ticket, "sender_id": "sender", "message": one} for ticket, one in messages]
        found: list[str] = []
        headers = {"Content-Type": "application/x-ndjson"}
        async with httpx.AsyncClient(base_url=f"http://{self.stack.ingests[0].url}", timeout=scaled(30)) as client:
            for start in range(0, len(lines), BATCH_LINES):
                body = "\n".join(json.dumps(line) for line in lines[start : start + BATCH_LINES])
                answer = await client.post("/chat/batch", content=body, headers=headers)
                assert answer.status_code == 200, answer.text
                found += [json.loads(line)["message_id"] for line in answer.text.splitlines()]
        await self.settled()
        return found

    @asynccontextmanager
    async def sending(self, tickets: Iterable[str], rate: float) -> AsyncIterator[list[Producer]]:
        """Send *rate* messages a second to each ticket for as long as the block; then wait until all are settled."""
        producers = [Producer(ticket) for ticket in tickets]
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(one.run(self.stack.ingests, random.Random(seed), rate))
                for seed, one in enumerate(producers)
            ]
            yield producers
            for task in tasks:
                task.cancel()
        unexpected = [answer for producer in producers for answer in producer.unexpected]
        assert not unexpected, unexpected[:5]
        await self.settled()

    async def settled(self) -> None:
        """Wait until every accepted message has its fate."""

        async def nothing_waits() -> bool:
            return await backlog(self.bus) == 0

        await until(nothing_waits, timeout_s=60, every_s=0.05)

    # --- what became of it

    async def confirmed(self, tickets: Iterable[str]) -> dict[str, list[str]]:
        """The ids of every ticket's confirmed messages in their one order, from the archive."""
        found: dict[str, list[str]] = {}
        for ticket in tickets:
            ids, after = found.setdefault(ticket, []), ZERO
            while page := await self.archive.history(ticket, after=after, limit=_HISTORY):
                ids += [event.message_id for event in page]
                after = MessageId.parse(ids[-1])
        return found

    async def acknowledged(self, ticket: str, user: str, device: str) -> str:
        """How far a device is, as the server knows it."""
        return (await standing(self.bus, ticket, user, device)).cursor

    def complaints(self) -> list[str]:
        """Lines of the tiers' logs that tell of a fault."""
        lines = [line for tier in self.stack.tiers for line in tier.log.read_text().splitlines()]
        return [
            line for line in lines if '"level": "error"' in line or '"level": "critical"' in line or line[:1] != "{"
        ]


def rss_bytes(tier: Tier) -> int:
    """Memory of a tier's process."""
    for line in Path(f"/proc/{tier.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"{tier.name} has no memory")


@asynccontextmanager
async def staged(folder: Path, redis_url: str, postgres_url: str, **options: Any) -> AsyncIterator[Stage]:
    """A stage with one ingest, one worker and *deliveries* nodes, ready; *options* as for `Stack`."""
    shared = SharedSettings.model_validate(
        {"redis_url": redis_url, "database_url": postgres_url, "auth": "off", "partitions": PARTITIONS}
    )
    async with (
        running(folder, redis_url, postgres_url, **{"workers": 1, **options}) as stack,
        open_bus(shared) as bus,
        open_archive(postgres_url) as archive,
    ):
        await bus.check()
        yield Stage(stack, bus, archive)
