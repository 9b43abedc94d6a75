"""Many v1 clients on nodes that are real processes: killed without a word, and restarted one after the other."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import httpx
import pytest

from schemas.events import Confirmed
from tests.integration.delivery.harness import Tier
from tests.until import scaled, until
from ticketwire.client.client import Client
from ticketwire.client.subscription import Subscription
from ticketwire.embedded.process import free_port

pytestmark = pytest.mark.faults

TICKETS = 20


class Process:
    """A delivery node of its own, at the same ports through its restarts."""

    def __init__(self, tier: Tier) -> None:
        self.port, self.internal = free_port(), free_port()
        shared = tier.worker.shared
        self._environment = {
            **os.environ,
            "TICKETWIRE_REDIS_URL": shared.redis_url.get_secret_value(),
            "TICKETWIRE_DATABASE_URL": shared.database_url.get_secret_value(),
            "TICKETWIRE_AUTH": "off", "TICKETWIRE_DRAIN_SECONDS": "10", "TICKETWIRE_LOG_LEVEL": "error",
            "DELIVERY_HOST": "127.0.0.1", "DELIVERY_PORT": str(self.port),
            "DELIVERY_INTERNAL_HOST": "127.0.0.1", "DELIVERY_INTERNAL_PORT": str(self.internal),
            "DELIVERY_ACK_INTERVAL_MS": "200", "DELIVERY_MARKS_SECONDS": "0.1",
        }  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        self.process = subprocess.Popen([sys.executable, "-m", "delivery"], env=self._environment)
        async with httpx.AsyncClient() as client:

            async def ready() -> bool:
                try:
                    return (await client.get(f"http://127.0.0.1:{self.internal}/readyz")).status_code == 200
                except httpx.HTTPError:
                    return False

            await until(ready, timeout_s=30)

    async def end(self, how: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return await asyncio.to_thread(self.process.wait, scaled(20))


@contextmanager
def node(tier: Tier) -> Iterator[Process]:
    made = Process(tier)
    try:
        yield made
    finally:
        if made.process is not None:
            made.process.kill()
            made.process.wait()


@asynccontextmanager
async def clients(urls: list[str], count: int) -> AsyncIterator[dict[int, tuple[Client, list[str]]]]:
    """Clients with a device each, spread over tickets and nodes, that keep what they get."""

    async def read(subscription: Subscription, got: list[str]) -> None:
        async for event in subscription:
            if event.kind == "message":
                got.append(event.message_id)
            assert event.kind != "reset"

    async with AsyncExitStack() as stack:
        found: dict[int, tuple[Client, list[str]]] = {}
        tasks = []
        for number in range(count):
            turned = urls[number % len(urls) :] + urls[: number % len(urls)]
            client = await stack.enter_async_context(Client(turned, user=f"u{number}", device="d"))
            found[number] = client, []
            tasks.append(
                asyncio.create_task(read(client.subscribe(str(number % TICKETS), since="0-0"), found[number][1]))
            )
        yield found
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, asyncio.CancelledError), result


async def keep_sending(tier: Tier, sent: dict[int, list[Confirmed]], stop: asyncio.Event) -> None:
    """A message to each ticket in turn until told to stop."""
    number = 0
    while not stop.is_set():
        event = await tier.worker.send(str(number % TICKETS))
        sent.setdefault(number % TICKETS, []).append(event)
        number += 1
        await asyncio.sleep(0.01)


async def all_arrived(found: dict[int, tuple[Client, list[str]]], sent: dict[int, list[Confirmed]]) -> None:
    """Wait until every client has all of its ticket; each once and in order."""
    wanted = {ticket: [event.message_id for event in events] for ticket, events in sent.items()}
    await until(lambda: all(len(got) >= len(wanted[n % TICKETS]) for n, (_, got) in found.items()), timeout_s=60)
    for number, (_, got) in found.items():
        assert got == wanted[number % TICKETS]


async def test_a_killed_node_costs_its_clients_nothing(tier: Tier) -> None:
    """SIGKILL with two hundred clients on it: all have everything in the end, and have acknowledged it."""
    with node(tier) as victim, node(tier) as other:
        await victim.start()
        await other.start()
        async with clients([victim.url, other.url], 200) as found:
            await until(lambda: all(client.connected.is_set() for client, _ in found.values()), timeout_s=30)
            sent: dict[int, list[Confirmed]] = {}
            stop = asyncio.Event()
            sending = asyncio.create_task(keep_sending(tier, sent, stop))
            await until(lambda: all(got for _, got in found.values()))
            await victim.end(signal.SIGKILL)
            await until(lambda: all(client.connected.is_set() for client, _ in found.values()), timeout_s=60)
            stop.set()
            await sending
            await all_arrived(found, sent)
            cursors = tier.redis

            def acknowledged() -> bool:
                return all(
                    cursors.hget(f"chat:{n % TICKETS}:cursors", f"u{n}:d") == sent[n % TICKETS][-1].message_id
                    for n in found
                )

            await until(acknowledged, timeout_s=30)


async def test_all_nodes_are_restarted_one_by_one_and_nobody_misses_a_message(tier: Tier) -> None:
    """SIGTERM, wait, start again, then the next: three hundred clients move to and fro while messages go on."""
    with node(tier) as one, node(tier) as two:
        await one.start()
        await two.start()
        async with clients([one.url, two.url], 300) as found:
            await until(lambda: all(client.connected.is_set() for client, _ in found.values()), timeout_s=30)
            sent: dict[int, list[Confirmed]] = {}
            stop = asyncio.Event()
            sending = asyncio.create_task(keep_sending(tier, sent, stop))
            for each in (one, two):
                assert await each.end(signal.SIGTERM) == 0
                await each.start()
            await until(lambda: all(client.connected.is_set() for client, _ in found.values()), timeout_s=60)
            stop.set()
            await sending
            await all_arrived(found, sent)
            assert min(client.connections for client, _ in found.values()) >= 2
