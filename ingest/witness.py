"""Remembers what this node answered, so that what Redis loses afterwards is missed by somebody.

A worker cannot know of an entry that was lost before it was read. With durability `redis` a failover may lose the
newest entries, a FLUSHALL all that are not settled; who accepted them is the only one left who knows.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from ingest import metrics
from ingest.fate import Finder
from ingest.group_commit import Accept
from schemas.message_id import MessageId
from ticketwire.archive.dead_letters import LetterArchive
from ticketwire.archive.messages import Archive
from ticketwire.bus.accept import Offer
from ticketwire.bus.bus import Bus
from ticketwire.bus.history import histories
from ticketwire.bus.partition import Partition
from ticketwire.errors import Rejected, TicketwireError, Unavailable
from ticketwire.settings import SharedSettings

log = logging.getLogger(__name__)

_TICKET = 3  # its place among an offer's fields: `encode_submitted`
_CHUNK = 500  # messages asked for in one statement
_AT_ONCE = 16  # messages looked for one by one; requests of clients want the connections too
_NAMED = 5  # ids in the log line

Answer = tuple[str, str]  # ticket, message id


class Witness:
    """Looks again and again whether Redis is still what it was, and if not for every message answered lately."""

    def __init__(self, bus: Bus, archive: Archive, shared: SharedSettings, size: int, every_s: float) -> None:
        """*size*: how many of the newest answers are remembered."""
        self._bus = bus
        self._shared = shared
        self._archive = archive
        self._letters = LetterArchive(archive.database)
        self._every_s = every_s
        self._answers: deque[Answer] = deque(maxlen=size)
        self._histories: frozenset[str] | None = None  # None: not known yet
        self._few = asyncio.Semaphore(_AT_ONCE)

    def remembering(self, accept: Accept) -> Accept:
        """Return *accept* with a memory for what it stored."""
        remember = self._answers.append

        async def accepted(token: str, offers: Sequence[Offer]) -> list[str | TicketwireError]:
            answers = await accept(token, offers)
            for offer, answer in zip(offers, answers, strict=True):
                if isinstance(answer, str):
                    remember((offer.fields[_TICKET], answer))
            return answers

        return accepted

    async def run(self) -> None:
        """Watch, for ever. An outage is waited out; what comes after it is looked at."""
        while True:
            await asyncio.sleep(self._every_s)
            await self.look()

    async def look(self) -> None:
        """Look once, and for all answers if anything changed since the last time, or if this is the first."""
        try:
            found = await histories(self._bus)
        except Unavailable:
            return  # readiness says so already
        if found != self._histories and self._answers:
            # What is answered from now on lies in the new history.
            await self._look_for(list(self._answers))
        self._histories = found

    async def _look_for(self, answers: Sequence[Answer]) -> None:
        """Count and name those of *answers* that are nowhere, however long the servers asked are out of reach."""
        log.warning("Redis was restarted, replaced or emptied", extra={"answers_to_find": len(answers)})
        missing: list[Answer] = []
        looked_at = 0
        try:
            for chunk in _chunks(answers):
                missing += await _until_available(self._missing, chunk)
                looked_at += len(chunk)
            if missing:
                # A worker may have read some before Redis lost them: then they are archived within its lease.
                await asyncio.sleep(self._shared.lease_ttl_ms / 1000)
                missing = [one for chunk in _chunks(missing) for one in await _until_available(self._missing, chunk)]
        finally:
            if looked_at < len(answers):  # this node is stopping, and nobody else can go on
                log.error("not looked for all answered messages", extra={"left": len(answers) - looked_at})
            if missing:
                metrics.LOST.inc(len(missing))
                named = [f"{ticket} {message_id}" for ticket, message_id in missing[:_NAMED]]
                log.error("Redis lost accepted messages", extra={"messages": len(missing), "some": named})
        self._forget(set(missing))

    def _forget(self, lost: set[Answer]) -> None:
        """Count nothing twice."""
        kept = [answer for answer in self._answers if answer not in lost]
        self._answers.clear()
        self._answers.extend(kept)

    async def _missing(self, answers: Sequence[Answer]) -> list[Answer]:
        """Return those of *answers* that are nowhere. Raises Unavailable."""
        # On the stream first: what leaves it is archived or buried by then. Nearly all are found by these two.
        pending = await self._pending(answers)
        asked = {(ticket, MessageId.parse(at)): (ticket, at) for ticket, at in answers if (ticket, at) not in pending}
        archived = await self._letters.archived(list(asked))
        unknown = [place for place in asked if place not in archived]
        fates = await asyncio.gather(*(self._has_fate(*place) for place in unknown), return_exceptions=True)
        for fate in fates:
            if isinstance(fate, BaseException):
                raise fate
        return [asked[place] for place, has_fate in zip(unknown, fates, strict=True) if not has_fate]

    async def _pending(self, answers: Sequence[Answer]) -> set[Answer]:
        """Return those of *answers* that lie on their ingest stream."""
        by_partition: dict[int, list[Answer]] = {}
        for answer in answers:
            by_partition.setdefault(self._bus.keys.partition_of(answer[0]), []).append(answer)
        found = set()
        for partition, some in by_partition.items():
            absent = await Partition(self._bus, partition, self._shared).absent([at for _, at in some])
            found |= {answer for answer in some if answer[1] not in absent}
        return found

    async def _has_fate(self, ticket: str, message_id: MessageId) -> bool:
        try:
            async with self._few:
                await Finder(self._bus, self._archive, ticket).find(message_id)
        except Rejected:
            return False
        return True


async def _until_available(
    action: Callable[[list[Answer]], Awaitable[list[Answer]]], chunk: list[Answer]
) -> list[Answer]:
    """Repeat with full-jitter backoff while what is asked is out of reach."""
    wait = wait_random_exponential(multiplier=0.1, max=5)
    return await AsyncRetrying(retry=retry_if_exception_type(Unavailable), wait=wait)(action, chunk)


def _chunks(answers: Sequence[Answer]) -> Iterable[list[Answer]]:
    rest = iter(answers)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk
