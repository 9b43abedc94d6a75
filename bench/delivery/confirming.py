"""The worker's call that confirms messages, made by the workers' own code and written down for the load generator."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from schemas.entries import encode_confirmed
from schemas.events import Confirmed, event_tail
from ticketwire.bus.bus import Bus, open_bus
from ticketwire.bus.connection import Argument, Command
from ticketwire.bus.partition import Lease, Partition, Settlement
from ticketwire.bus.scripts import script
from ticketwire.settings import SharedSettings

# What stands in the message that is written down, and what the generator puts in its place.
ID, TICKET, TEXT, SECONDS = "1234567890123-456", "a-ticket", "a-text", 1_234_567_890
PLACES = {ID: "{id}", TICKET: "{ticket}", TEXT: "{text}", str(SECONDS): "{seconds}"}


class Recording(Bus):
    """A bus that keeps the arguments of a script call instead of sending it."""

    recorded: tuple[Argument, ...]

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus.topology, bus.keys, timeout_s=1.0)
        self.features = bus.features

    async def script(
        self,
        name: str,
        keys: Sequence[str],
        args: Sequence[Argument],
        *then: Command,
        timeout: float | None = None,
    ) -> list[Any]:
        self.recorded = ("EVALSHA", script(name, self.features.version).sha, len(keys), *keys, *args)
        return [([], [])]


def write(file: Path, redis_url: str, database_url: str) -> Path:
    """Take the leases of all partitions and write to *file* how their owner confirms; return *file*.

    Its content: for each partition `{"head": […], "entry": […]}`, the arguments of the Redis command, of which those of
    `entry` are repeated for each message, with {id}, {ticket}, {text} and {seconds} replaced.
    """
    settings = {"redis_url": redis_url, "database_url": database_url, "auth": "off"}
    commands = asyncio.run(_commands(SharedSettings.model_validate(settings)))
    file.write_text(json.dumps(commands))
    return file


async def _commands(shared: SharedSettings) -> list[dict[str, list[str]]]:
    event = Confirmed(TICKET, ID, "1", TEXT, SECONDS)
    settled = Settlement(ID, "log", TICKET, event_tail(event), encode_confirmed(event))
    commands = []
    async with open_bus(shared) as bus:
        await bus.check()
        await bus.command("", "SCRIPT", "LOAD", script("confirm", bus.features.version).text)
        recording = Recording(bus)
        for number in range(bus.keys.partitions):
            lease = await Partition(bus, number, shared).acquire("bench")
            if not isinstance(lease, Lease):
                raise RuntimeError(f"partition {number} of a new Redis is leased: {lease}")
            await Partition(recording, number, shared).confirm(lease, [settled])
            arguments = list(map(str, recording.recorded))
            start = arguments.index(ID)
            commands.append({"head": arguments[:start], "entry": list(map(_with_places, arguments[start:]))})
    return commands


def _with_places(argument: str) -> str:
    for value, place in PLACES.items():
        argument = argument.replace(value, place)
    return argument
