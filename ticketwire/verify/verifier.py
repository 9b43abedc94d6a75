"""The checks. They look in the order in which a message moves, so that one in flight is found somewhere; what still
looks wrong is a suspect, and looked at again until it is cleared or time is up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

from schemas.events import Confirmed
from schemas.message_id import ZERO, MessageId
from ticketwire.archive.audit import Audit
from ticketwire.archive.dead_letters import LetterArchive
from ticketwire.archive.messages import Archive
from ticketwire.archive.rows import KINDS
from ticketwire.archive.witness import Witness, WitnessRow
from ticketwire.bus import census, log, overview
from ticketwire.bus.bus import Bus
from ticketwire.bus.dead_letters import PAGE, DeadLetters, Letter
from ticketwire.bus.overview import PartitionView
from ticketwire.settings import SharedSettings
from ticketwire.verify.report import Check, Report, Suspect

AT_ONCE = 16  # tickets looked at side by side
MOST_SUSPECTS = 10_000  # with more there is no need to go on looking
MARGIN_S = 2.0  # beyond a lease's TTL: by then a takeover has repaired what it can
RECHECK_EVERY_S = 0.25
_SHOWN = ("confirmed", "masked", *KINDS)
_LAST = 2**64 - 1


class Verifier:
    """One verification: use `run`."""

    def __init__(
        self,
        bus: Bus,
        archive: Archive,
        settings: SharedSettings,
        *,
        since_ms: int = 0,
        must_run: bool = False,
        patience_s: float | None = None,
    ) -> None:
        """*must_run*: that no worker runs is itself a violation. *patience_s*: how long a suspect may take to clear."""
        self._bus = bus
        self._archive = archive
        self._witness = Witness(archive.database)
        self._dead = DeadLetters(bus)
        self._kept = LetterArchive(archive.database)
        self._timeout_s = settings.redis_timeout_ms / 1000
        self._patience_s = settings.lease_ttl_ms / 1000 + MARGIN_S if patience_s is None else patience_s
        self._since_ms = since_ms
        self._since = MessageId(since_ms - 1, _LAST) if since_ms else ZERO  # exclusive
        self._must_run = must_run
        self._suspects: list[Suspect] = []
        self.entries = Check("entries", "every accepted entry is waiting, in hand, or settled")
        self.archived = Check("archived", "every entry of a log is archived, with the same text and sender")
        self.shown = Check("shown", "every message archived as shown is in its log, in the same order")
        self.fates = Check("fates", "every dead letter is dead and nothing else")
        self.owners = Check("owners", "no partition is without an owner for longer than the lease's TTL")
        self.record = Check("record", "the chain of decisions is whole")

    async def run(self) -> Report:
        """Look at everything. Raises Unavailable when Redis or PostgreSQL goes away meanwhile."""
        began = time.monotonic()
        await self._look_at_partitions()
        async for tickets in census.tickets_with_log(self._bus, self._timeout_s):
            await self._look_at_tickets(tickets)
            if len(self._suspects) > MOST_SUSPECTS:
                self.shown.note = f"stopped looking after {MOST_SUSPECTS:,} suspects"
                break
        await self._look_at_letters()
        await self._look_at_record()
        await self._settle_suspects()
        checks = [self.entries, self.archived, self.shown, self.fates, self.owners, self.record]
        return Report(checks, time.monotonic() - began)

    def _suspect(self, check: Check, look: Callable[..., Awaitable[str | None]], *about: Any) -> None:
        """Look at something again later: *look* says what is wrong, or None."""
        self._suspects.append(Suspect(check, partial(look, *about)))

    # --- partitions

    async def _look_at_partitions(self) -> None:
        views = await overview.partitions(self._bus)
        now, workers = await overview.workers(self._bus)
        running = self._must_run or any(view.owned for view in views) or any(until > now for _, until in workers)
        if not running:
            self.owners.note = "no worker runs; --live takes that for a fault"
        anew = []
        for view in views:
            self.entries.looked_at += view.settled + view.backlog
            if view.entries_added is not None and view.entries_added < view.settled + view.backlog:
                anew.append(f"{view.partition}")
            self._suspect(self.entries, self._unsettled, view.partition)
            if running:
                self.owners.looked_at += 1
                if not view.owned:
                    self._suspect(self.owners, self._ownerless, view.partition)
        if any(view.entries_added is None for view in views):
            self.entries.note = "Redis before 7.0 does not count what was ever added, so only what it holds was judged"
        elif anew:
            self.entries.note = f"streams made anew, so not counted: partition {', '.join(anew)}"

    async def _unsettled(self, partition: int) -> str | None:
        """Entries that no reader will ever get, or that left without a fate."""
        lost = await census.stranded(self._bus, partition)
        if lost:
            return f"partition {partition}: {len(lost):,} entries were read and are in nobody's hand, first {lost[0]}"
        view = await overview.partition_view(self._bus, partition)
        missing = view.entries_added - view.settled - view.backlog if view.entries_added is not None else 0
        return f"partition {partition}: {missing:,} entries left its stream without a fate" if missing > 0 else None

    async def _ownerless(self, partition: int) -> str | None:
        view: PartitionView = await overview.partition_view(self._bus, partition)
        if view.owned:
            return None
        ended = f", the last lease ended {(view.at_ms - view.lease_ends_at_ms) / 1000:.1f} s ago"
        return f"partition {partition} has no owner{ended if view.lease_ends_at_ms else ''}; {view.backlog:,} wait"

    # --- logs against the archive

    async def _look_at_tickets(self, tickets: Iterable[str]) -> None:
        turn = asyncio.Semaphore(AT_ONCE)

        async def look(ticket: str) -> None:
            async with turn:
                await self._look_at_ticket(ticket)

        async with asyncio.TaskGroup() as group:
            for ticket in tickets:
                group.create_task(look(ticket))

    async def _look_at_ticket(self, ticket: str) -> None:
        first = await census.first_of_log(self._bus, ticket)
        if first is None:
            return
        # The log first, then the archive: what is in the log was archived before. Just before the first entry, in
        # Redis's order, so that the archive is asked about the first as well.
        position = max(self._since, _before(first))
        while True:
            events = (await log.read_after(self._bus, ticket, position)).events
            rows = await self._witness.rows(ticket, [event.position for event in events])
            for event in events:
                self.archived.looked_at += 1
                if _difference(event, rows.get(event.position)) is not None:
                    self._suspect(self.archived, self._differs, event)
            full = len(events) == log.PAGE
            end = MessageId(events[-1].position.ms, events[-1].position.seq + 1) if full else None
            await self._look_for_missing(ticket, position, events, end)
            if not full:
                return
            position = events[-1].position

    async def _look_for_missing(
        self, ticket: str, after: MessageId, events: list[Confirmed], before: MessageId | None
    ) -> None:
        """Ask the archive what it says was shown where *events* were read."""
        there = {event.position for event in events}
        while True:
            page = await self._witness.shown_between(ticket, after, before, log.PAGE)
            self.shown.looked_at += len(page)
            for message_id in page:
                if message_id not in there:
                    self._suspect(self.shown, self._missing, ticket, message_id)
            if len(page) < log.PAGE or len(self._suspects) > MOST_SUSPECTS:
                return
            after = page[-1]

    async def _differs(self, event: Confirmed) -> str | None:
        now = (await log.read_after(self._bus, event.ticket_id, _before(event.position), 1)).events
        if not now or now[0].message_id != event.message_id:
            return None  # the log has let go of it
        rows = await self._witness.rows(event.ticket_id, [event.position])
        difference = _difference(now[0], rows.get(event.position))
        return difference and f"ticket {event.ticket_id}, {event.message_id}: {difference}"

    async def _missing(self, ticket: str, at: MessageId) -> str | None:
        """What is archived is on the stream until, in one step, it is in the log."""
        where = await overview.place(self._bus, ticket, at)
        if where.on_stream or where.in_log:
            return None
        first = await census.first_of_log(self._bus, ticket)
        if first is None or at < first:
            return None  # the log has let go of it
        row = (await self._witness.rows(ticket, [at])).get(at)
        if row is None or row.status not in _SHOWN:
            return None  # renamed, redacted or erased since
        if await self._witness.updated(ticket, at):
            return None  # its update stands in the log instead
        partition = self._bus.keys.partition_of(ticket)
        if await self._dead.of_entry(partition, at) or await self._kept.of_entry(partition, str(at)):
            return None  # its log refused it (a key of another type): a dead letter says so
        return f"ticket {ticket}, {at}: archived as {row.status}, but not in its log, which begins at {first}"

    # --- dead letters

    async def _look_at_letters(self) -> None:
        for partition in range(self._bus.keys.partitions):
            after, end = "", await self._dead.newest(partition)
            while end:
                page = await self._dead.page(partition, after, end)
                letters = [letter for letter in page if letter.last_at_ms >= self._since_ms]
                self.fates.looked_at += len(letters)
                await self._suspect_letters(letters)
                if len(page) < PAGE:
                    break
                after = page[-1].id

    async def _suspect_letters(self, letters: list[Letter]) -> None:
        messages = [(letter.ticket, MessageId.parse(letter.entry_id)) for letter in letters]
        archived = await self._kept.archived(messages)
        for letter, message in zip(letters, messages, strict=True):
            # A log that refuses an entry does so after it was archived.
            twice = message in archived and letter.reason != "log_refused"
            if twice or await census.lies_on_stream(self._bus, letter.partition, letter.entry_id):
                self._suspect(self.fates, self._two_fates, letter)

    async def _two_fates(self, letter: Letter) -> str | None:
        if letter.id not in await self._dead.get(letter.partition, [letter.id]):
            return None
        if await census.lies_on_stream(self._bus, letter.partition, letter.entry_id):
            return f"dead letter {letter.name} is on the ingest stream as well"
        message = (letter.ticket, MessageId.parse(letter.entry_id))
        if letter.reason != "log_refused" and await self._kept.archived([message]):
            return f"dead letter {letter.name} ({letter.reason}) is archived as well"
        return None

    # --- the record, and the suspects

    async def _look_at_record(self) -> None:
        chain = await Audit(self._archive.database).verify_chain()
        self.record.looked_at = chain.rows
        self.record.violations = chain.broken

    async def _settle_suspects(self) -> None:
        """Look at suspects again until they are cleared or the time is up; what is left is a violation."""
        deadline = time.monotonic() + self._patience_s
        suspects = self._suspects
        while True:
            found = [(suspect, await suspect.still()) for suspect in suspects]
            guilty = [(suspect, sentence) for suspect, sentence in found if sentence is not None]
            if not guilty or time.monotonic() >= deadline:
                break
            suspects = [suspect for suspect, _ in guilty]
            await asyncio.sleep(RECHECK_EVERY_S)
        for suspect, sentence in guilty:
            suspect.check.violations.append(sentence)


def _before(at: MessageId) -> MessageId:
    """The id right before *at* in Redis's order."""
    return MessageId(at.ms, at.seq - 1) if at.seq else MessageId(max(0, at.ms - 1), _LAST if at.ms else 0)


def _difference(event: Confirmed, row: WitnessRow | None) -> str | None:
    """Say what is wrong with a log entry, given its row in the archive."""
    if row is None:
        return "is in the log, but not in the archive"
    if row.status == "deleted":
        return None
    if event.kind != "message":
        same_change = KINDS.get(row.status) == event.kind and row.body == event.message
        return None if same_change else f"is a {event.kind}, but archived as {row.status} or with another text"
    if row.status not in _SHOWN:
        return f"is in the log, but archived as {row.status}"
    same = {"sender": row.sender_id == event.sender_id, "text": row.body == event.message}
    same["time"] = row.sent_at == event.timestamp
    wrong = [name for name, equal in same.items() if not equal]
    return f"log and archive differ in {', '.join(wrong)}" if wrong else None
