"""A delivery node dies with a thousand v1 clients on it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.integration.delivery.crowd import gathering
from tests.integration.delivery.raw import open_files
from tests.integration.delivery.stage import staged
from tests.until import until

pytestmark = pytest.mark.faults

CLIENTS = 1_000
TICKETS = [f"T{n}" for n in range(20)]
RATE = 4.0  # messages a second and ticket
FORGETFUL = 10  # each tenth comes back as a page loaded anew, which only the server can tell where it was
TOGETHER = 200  # questions about acknowledgements under way


async def test_a_killed_node_with_a_thousand_clients_costs_nobody_a_message(
    own_folder: Path, redis_url: str, postgres_url: str
) -> None:
    """SIGKILL while messages go on; all come back to the other node, get everything in order, and acknowledge it.

    Who comes back with its position gets nothing twice; who has only its device may be sent the last second again.
    """
    with open_files(4 * CLIENTS):
        async with (
            staged(own_folder, redis_url, postgres_url, deliveries=2, DELIVERY_ACK_INTERVAL_MS="1000") as stage,
            gathering(stage.ports[:1]) as crowd,
        ):
            victim = stage.stack.deliveries[0]
            for number in range(CLIENTS):
                crowd.reader("v1", TICKETS[number % len(TICKETS)], f"u{number}", device="phone")
            await crowd.all_live()
            async with stage.sending(TICKETS, RATE):
                await until(lambda: all(len(reader.got) >= RATE for reader in crowd.readers), timeout_s=30)
                forgetful = crowd.readers[::FORGETFUL]

                async def their_devices_are_known() -> bool:
                    known = [await stage.acknowledged(reader.ticket, reader.user, "phone") for reader in forgetful]
                    return all(known)

                await until(their_devices_are_known, every_s=0.1)
                for reader in forgetful:
                    reader.forget_position()
                crowd.ports = stage.ports[1:]
                victim.kill()
                had = {reader: len(reader.got) for reader in crowd.readers}
                await until(lambda: all(len(r.got) >= had[r] + RATE for r in crowd.readers), timeout_s=60)
            confirmed = await stage.confirmed(TICKETS)
            await crowd.all_have(confirmed)
            assert all(reader.connections == 2 for reader in crowd.readers)
            assert all(reader.resumed == ["full", "full"] for reader in crowd.readers)

            turn = asyncio.Semaphore(TOGETHER)

            async def behind() -> list[str]:
                async def ask(ticket: str, user: str) -> bool:
                    async with turn:
                        return await stage.acknowledged(ticket, user, "phone") == confirmed[ticket][-1]

                known = await asyncio.gather(*(ask(reader.ticket, reader.user) for reader in crowd.readers))
                return [reader.user for reader, done in zip(crowd.readers, known, strict=True) if not done]

            async def everybody_acknowledged_everything() -> bool:
                return await behind() == []

            await until(everybody_acknowledged_everything, timeout_s=30, every_s=0.2)
            assert stage.complaints() == []
