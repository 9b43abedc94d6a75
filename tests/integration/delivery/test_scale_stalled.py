"""Clients that never read, among a thousand that do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.faults.stack import Tier
from tests.integration.delivery.crowd import gathering
from tests.integration.delivery.harness import end
from tests.integration.delivery.raw import open_files
from tests.integration.delivery.stage import rss_bytes, staged
from tests.until import scaled, until

pytestmark = pytest.mark.faults

CLIENTS = 1_000
BUFFER = 131_072  # bytes that may wait for a socket
BUSY = ["b" * 4_000] * 100  # three times as much, to all
FLOOD = ["f" * 7_900] * 5_000  # 40 MB, to a few
MEMORY = 32_000_000  # what the node may grow by, with 80 MB owed to those who do not read


async def test_clients_that_never_read_are_closed_and_cost_neither_the_others_nor_the_memory(
    own_folder: Path, redis_url: str, postgres_url: str
) -> None:
    """v1: 4008, when its window has been full for too long; plain: 4004, when its buffer is. All others get everything.

    So do they themselves, once they read again: the codes mean "come back with your position".
    """
    settings = {
        "DELIVERY_SEND_BUFFER_BYTES": str(BUFFER),
        "DELIVERY_SEND_MARK_BYTES": str(BUFFER // 4),
        "DELIVERY_ACK_BYTES": str(BUFFER),
        "DELIVERY_ACK_SECONDS": str(scaled(3)),
        "DELIVERY_CLOSE_SECONDS": str(scaled(60)),
    }
    with open_files(4 * CLIENTS):
        async with staged(own_folder, redis_url, postgres_url, **settings) as stage, gathering(stage.ports) as crowd:
            for number in range(CLIENTS - 1):
                crowd.reader("v1", "busy", f"u{number}")
            crowd.reader("v1", "flood", "reader")
            stuck = [
                crowd.reader("v1", "busy", "stuck", small=True),
                crowd.reader("v1", "flood", "stuck", small=True),
                crowd.reader("plain", "flood", "stuck", small=True),
            ]
            await crowd.all_live()
            for reader in stuck:
                reader.stop_reading()
            node = stage.stack.deliveries[0]

            async def all_stuck_ones_are_closed() -> bool:
                return [await node.metric(f'delivery_closed_total{{code="{code}"}}') for code in (4008, 4004)] == [2, 1]

            others = [reader for reader in crowd.readers if reader not in stuck]
            async with peak_of_memory(node) as growth:
                sent = {"busy": await stage.send("busy", BUSY), "flood": await stage.send("flood", FLOOD)}
                await until(
                    lambda: all(reader.got == sent[reader.ticket] for reader in others), timeout_s=60, every_s=0.05
                )
                await until(all_stuck_ones_are_closed, timeout_s=30, every_s=0.1)
            assert growth() < MEMORY
            assert all(reader.codes == [] for reader in others)

            for reader in stuck:
                reader.read_on()
            await crowd.all_have(sent)
            assert [reader.errors for reader in stuck] == [["ack_timeout"], ["ack_timeout"], []]
            assert [reader.codes for reader in stuck] == [[4008], [4008], [4004]]
            assert stage.complaints() == []


@asynccontextmanager
async def peak_of_memory(node: Tier) -> AsyncIterator[Callable[[], int]]:
    """Watch a process; the value says by how many bytes it has grown at the most."""
    before = most = rss_bytes(node)

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, rss_bytes(node))
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    try:
        yield lambda: most - before
    finally:
        await end(watching)
