"""Thousands of readers in one process: as cheap as they can be, and strict.

A reader follows docs/protocol.md through every reconnect: positions, acknowledgements, `reconnect`, close codes. What a
lenient client would mend by itself is a finding here (`Crowd.faults`): an event that does not follow the last one, a
repeat, an error, a code that means stop.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.integration.delivery.reader import Kind, Reader
from tests.until import until

AT_ONCE = 100  # handshakes under way


class Crowd:
    """Readers, the nodes they may go to, and what went wrong with them. Use `gathering`."""

    def __init__(self, ports: Sequence[int], seed: int = 1) -> None:
        self.ports = list(ports)  # a load balancer's list: change it as one would
        self.rng = random.Random(seed)
        self.readers: list[Reader] = []
        self.faults: list[str] = []
        self.refusals = 0
        self.window, self.window_bytes = 512, 524_288
        self.ack_s = 5.0
        self.doors = asyncio.Semaphore(AT_ONCE)
        self._names: dict[bytes, str] = {}

    def name(self, found: bytes) -> str:
        """The same text for the same id, so that thousands of lists share it."""
        known = self._names.get(found)
        if known is None:
            known = self._names[found] = found.decode()
        return known

    def address(self, reader: Reader) -> tuple[str, int]:
        """Where *reader* is sent now: any node, as a load balancer does."""
        return "127.0.0.1", self.rng.choice(self.ports)

    def reader(self, kind: Kind, ticket: str, user: str, **options: Any) -> Reader:
        """Add a reader, who comes at once."""
        made = Reader(self, kind, ticket, user, **options)
        self.readers.append(made)
        made.come()
        return made

    def of(self, kind: Kind) -> list[Reader]:
        return [reader for reader in self.readers if reader.kind == kind]

    async def all_live(self, timeout_s: float = 60.0) -> None:
        """Wait until everybody who is not gone is connected and subscribed."""

        def nobody_is_missing() -> bool:
            return not self.faults and all(reader.live for reader in self.readers if not reader.gone)

        await self._until(nobody_is_missing, timeout_s)

    async def all_have(self, wanted: dict[str, list[str]], timeout_s: float = 60.0) -> None:
        """Wait until everybody has the last of *wanted*'s messages of the ticket; each must have exactly those."""

        def nobody_is_behind() -> bool:
            return all(reader.got[-1:] == wanted[reader.ticket][-1:] for reader in self.readers)

        await self._until(nobody_is_behind, timeout_s)
        wrong = [reader for reader in self.readers if reader.got != wanted[reader.ticket]]
        assert not wrong, [describe(reader, wanted[reader.ticket]) for reader in wrong[:5]]
        assert not self.faults, self.faults[:5]

    async def _until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        try:
            await until(condition, timeout_s, every_s=0.05)
        except AssertionError as exc:
            away = [reader.user for reader in self.readers if not reader.live]
            raise AssertionError(
                f"{exc}\n{len(self.faults)} faults, {len(away)} away, {self.refusals} refusals: {self.faults[:5]}"
            ) from None

    def codes(self) -> Counter[int]:
        """By which codes nodes closed sockets."""
        return Counter(code for reader in self.readers for code in reader.codes)


def describe(reader: Reader, wanted: list[str]) -> str:
    """What is wrong with what *reader* got."""
    missed = [at for at in wanted if at not in set(reader.got)]
    strange = [at for at in reader.got if at not in set(wanted)]
    return (
        f"{reader.kind} {reader.user}: {len(reader.got)} of {len(wanted)}, missed {missed[:3]}, strange {strange[:3]}"
    )


@asynccontextmanager
async def gathering(ports: Sequence[int], seed: int = 1) -> AsyncIterator[Crowd]:
    """A crowd, which goes home at the end of the block."""
    crowd = Crowd(ports, seed)
    try:
        yield crowd
    finally:
        for reader in crowd.readers:
            reader.gone = True
            if reader._opening is not None:
                reader._opening.cancel()
            reader._forget_acks()
            if reader.socket is not None:
                reader.socket.stale = True
                reader.socket.transport.abort()
