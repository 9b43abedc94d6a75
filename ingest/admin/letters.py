"""Dead letters: list, send again, purge."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

from ingest.admin.jobs import Job, Runner
from ingest.admin.requests import LetterFilter, ListRequest, PurgeRequest, ReplayRequest
from ingest.admin.shapes import copy_json, fields_json, letter_json, to_copy
from schemas.message_id import MessageId
from ticketwire.archive.audit import Audit
from ticketwire.archive.dead_letters import LetterArchive
from ticketwire.bus.dead_letters import PAGE, DeadLetters, Letter, Sent, parse_name
from ticketwire.errors import Rejected

MOST_SCANNED = 2_000  # letters one page of a list looks at
GROUP = 50  # letters in one script call
GROUP_CHARACTERS = 1_000_000
SUBJECT = "dead letters"

# What becomes of a letter in a replay or purge.
SENT = "sent"
WOULD_SEND = "would_send"
ALREADY = "already"  # sent or purged before, by whomever
ARCHIVED = "archived"  # history has the message: sent again it would be there twice. The letter stays
UNREADABLE = "unreadable"  # no letter of ours, or too many fields. It stays
PURGED = "purged"


class Letters:
    """The dead letters of all partitions, in Redis and, as copies, in PostgreSQL."""

    def __init__(self, dead: DeadLetters, kept: LetterArchive, audit: Audit, partition_of: Callable[[str], int]):
        self.dead = dead
        self.kept = kept
        self._audit = audit
        self._partition_of = partition_of

    # --- reading

    async def page(self, request: ListRequest) -> dict[str, Any]:
        """Return letters partition by partition, each oldest first, and where the next page begins.

        Looks at MOST_SCANNED letters at the most, so a page may be short, or even empty, and yet not be the last.
        """
        partitions = self._partitions(request)
        at, after = self._cursor(request.cursor) if request.cursor else (partitions.start, "")
        found: list[Letter] = []
        scanned = 0
        for partition in range(max(at, partitions.start), partitions.stop):
            while True:
                page = await self.dead.page(partition, after)
                for letter in page:
                    scanned, after = scanned + 1, letter.id
                    if request.matches(letter):
                        found.append(letter)
                    if len(found) == request.limit or scanned == MOST_SCANNED:
                        return _listed(found, letter.name)
                if len(page) < PAGE:
                    break
            after = ""
        return _listed(found, None)

    async def show(self, name: str) -> dict[str, Any]:
        """Return one letter whole, from Redis or its copy. Raises Rejected `not_found`."""
        partition, letter_id = self._parsed(name, "id")
        letter = (await self.dead.get(partition, [letter_id])).get(letter_id)
        if letter is not None:
            return {**letter_json(letter), "state": "dead", "fields": fields_json(letter.fields, letter.stage)}
        sent = await self.dead.sent_as(partition, letter_id)
        kept = await self.kept.get(partition, MessageId.parse(letter_id))
        if kept is None:
            raise Rejected("not_found", f"there is no dead letter {name}")
        replayed_as = sent.new_id if sent else kept.replayed_as
        return {
            **copy_json(kept.copy),
            "state": "replayed" if replayed_as else "purged",
            "replayed_as": replayed_as,
            "replayed_at_ms": sent.at_ms if sent else kept.replayed_at_ms,
            "purged_at_ms": kept.purged_at_ms,
            "actor": kept.actor,
            "why": kept.why,
            "fields": fields_json(kept.copy.fields, kept.copy.stage),
        }

    # --- sending again

    async def replay(self, job: Job, request: ReplayRequest, runner: Runner) -> None:
        """Send the letters asked for. Letters of a partition keep their order; each is sent once, by whomever."""
        if request.ids is not None:
            wanted = self._by_partition(request.ids)
            await self._check_known(wanted)
            job.total = sum(len(ids) for ids in wanted.values())
            groups = self._groups_of_ids(job, wanted)
        else:
            assert request.filter is not None
            ends = await self._ends(request.filter)
            job.total = await self._count(request.filter, ends)
            groups = self._groups(request.filter, ends)
        changing = not request.dry_run and job.total > 0
        if changing:
            await self._record(job, "begin")
        began, sent = asyncio.get_running_loop().time(), 0
        most = GROUP if request.rate is None else max(1, min(GROUP, int(request.rate / 4)))
        async for group in groups:
            for part in _parts(group, most):
                if request.rate is not None:
                    due = began + sent / request.rate
                    while (left := due - asyncio.get_running_loop().time()) > 0:
                        await runner.pause(left)
                results = await runner.step(lambda part=part: self._send(job, part))  # type: ignore[misc]
                for letter, outcome, new_id in results:
                    job.note(letter.name, outcome, new_id)
                    sent += outcome in (SENT, WOULD_SEND) and not request.dry_run
        if changing:
            await runner.step(lambda: self._record(job, "end"))

    async def _send(self, job: Job, letters: Sequence[Letter]) -> list[tuple[Letter, str, str | None]]:
        """Send letters of one partition. Repeating it after Unavailable is safe."""
        partition = letters[0].partition
        verdicts = await self._judge(letters, keep=not job.dry_run)
        send = [letter for letter in letters if verdicts[letter.id] == WOULD_SEND]
        new_ids: dict[str, Sent | None] = {}
        if send and not job.dry_run:
            note = json.dumps({"job": job.job_id, "actor": job.actor, "why": job.why})
            new_ids = dict(zip((one.id for one in send), await self.dead.send(partition, send, note), strict=True))
            await self.record_sent(partition)
            for letter in send:
                by = new_ids[letter.id]
                # What an earlier try of ours sent without hearing of it counts as ours.
                ours = by is not None and json.loads(by.note)["job"] == job.job_id
                verdicts[letter.id] = SENT if ours else ALREADY
        return [
            (one, verdicts[one.id], by.new_id if (by := new_ids.get(one.id)) is not None else None) for one in letters
        ]

    async def _judge(self, letters: Sequence[Letter], *, keep: bool) -> dict[str, str]:
        """Say of each letter whether it may be sent, having kept a copy of it if *keep*."""
        sendable = [letter for letter in letters if letter.sendable]
        copies = [to_copy(letter) for letter in sendable]
        earlier = await (self.kept.keep(copies) if keep else self.kept.earlier(copies))
        # Twice in history is what must not be. A letter can lie here though its message is archived: its log refused
        # it, or Redis was restored from an old file after a replay.
        asked: dict[tuple[str, MessageId], str] = {}
        for copy in copies:
            for entry_id in (copy.entry_id, earlier.get((copy.partition, copy.letter_id))):
                if entry_id is not None:
                    asked[copy.ticket, MessageId.parse(entry_id)] = str(copy.letter_id)
        archived = {asked[one] for one in await self.kept.archived(list(asked))}
        return {
            one.id: UNREADABLE if not one.sendable else ARCHIVED if one.id in archived else WOULD_SEND
            for one in letters
        }

    async def record_sent(self, partition: int) -> None:
        """Let PostgreSQL have what was sent, by us or by somebody who died before recording it."""
        recorded = []
        for letter_id, sent in (await self.dead.unrecorded(partition)).items():
            note = json.loads(sent.note)
            await self.kept.sent(
                partition,
                MessageId.parse(letter_id),
                new_id=sent.new_id,
                at_ms=sent.at_ms,
                actor=note["actor"],
                why=note["why"],
            )
            recorded.append(letter_id)
        await self.dead.forget(partition, recorded)

    # --- purging

    async def purge(self, job: Job, request: PurgeRequest, runner: Runner) -> None:
        """Remove the letters that the filter matches, if they are as many as expected."""
        ends = await self._ends(request.filter)
        job.total = await self._count(request.filter, ends)
        if job.total != request.expected:
            detail = f"expected is {request.expected:,}, but the filter matches {job.total:,} letters: nothing purged"
            raise Rejected("conflict", detail)
        await self._record(job, "begin")
        async for group in self._groups(request.filter, ends):
            removed = await runner.step(lambda group=group: self.remove(group, job.actor, job.why))  # type: ignore[misc]
            for letter in group:
                job.note(letter.name, PURGED if letter.id in removed else ALREADY)
        await runner.step(lambda: self._record(job, "end"))

    async def remove(self, letters: Sequence[Letter], actor: str, why: str) -> set[str]:
        """Remove letters of one partition once PostgreSQL has them; return the ids of those that were there."""
        await self.kept.purging([to_copy(letter) for letter in letters], actor, why)
        return await self.dead.remove(letters[0].partition, [letter.id for letter in letters])

    async def purge_older(self, cutoff_ms: int) -> int:
        """Remove letters buried before *cutoff_ms*; return how many.

        They lie in the order of their burial, as far as workers' clocks agree, so the first younger one ends the look.
        """
        purged = 0
        why = f"buried before {cutoff_ms} (INGEST_DEAD_LETTER_DAYS)"
        for partition in range(self.dead.partitions):
            while True:
                page = await self.dead.page(partition)
                old = [letter for letter in page if letter.last_at_ms < cutoff_ms]
                if old:
                    detail = {"partition": partition, "letters": len(old), "last": old[-1].id}
                    await self._audit.record("retention", "purge", SUBJECT, why, detail)
                    purged += len(await self.remove(old, "retention", why))
                if len(old) < PAGE:
                    break
        return purged

    # --- choosing

    def _partitions(self, chosen: LetterFilter) -> range:
        if chosen.ticket is None:
            return range(self.dead.partitions)
        partition = self._partition_of(chosen.ticket)
        return range(partition, partition + 1)

    async def _ends(self, chosen: LetterFilter) -> dict[int, str]:
        """The last letter of each partition as of now: what is buried later, a letter sent again too, is not meant."""
        ends = {partition: await self.dead.newest(partition) for partition in self._partitions(chosen)}
        return {partition: end for partition, end in ends.items() if end}

    async def _groups(self, chosen: LetterFilter, ends: Mapping[int, str]) -> AsyncIterator[list[Letter]]:
        """Give the letters meant, in groups of one partition, in order."""
        for partition, end in ends.items():
            after = ""
            while True:
                page = await self.dead.page(partition, after, end)
                matching = [letter for letter in page if chosen.matches(letter)]
                if matching:
                    yield matching
                if len(page) < PAGE:
                    break
                after = page[-1].id

    async def _count(self, chosen: LetterFilter, ends: Mapping[int, str]) -> int:
        return sum([len(group) async for group in self._groups(chosen, ends)])

    def _by_partition(self, names: Sequence[str]) -> dict[int, list[str]]:
        wanted: dict[int, set[MessageId]] = {}
        for name in names:
            partition, letter_id = self._parsed(name, "ids")
            wanted.setdefault(partition, set()).add(MessageId.parse(letter_id))
        return {partition: [str(one) for one in sorted(wanted[partition])] for partition in sorted(wanted)}

    async def _check_known(self, wanted: Mapping[int, Sequence[str]]) -> None:
        """Raise Rejected `not_found` unless each letter is there or was."""
        unknown = []
        for partition, ids in wanted.items():
            there = await self.dead.get(partition, ids)
            for one in (letter_id for letter_id in ids if letter_id not in there):
                gone = await self.dead.sent_as(partition, one) or await self.kept.get(partition, MessageId.parse(one))
                if gone is None:
                    unknown.append(f"{partition:02d}:{one}")
        if unknown:
            more = f" and {len(unknown) - 5:,} more" if len(unknown) > 5 else ""
            raise Rejected("not_found", f"ids: there is no dead letter {', '.join(unknown[:5])}{more}")

    async def _groups_of_ids(self, job: Job, wanted: Mapping[int, Sequence[str]]) -> AsyncIterator[list[Letter]]:
        for partition, ids in wanted.items():
            there = await self.dead.get(partition, ids)
            for one in (letter_id for letter_id in ids if letter_id not in there):
                sent = await self.dead.sent_as(partition, one)
                kept = await self.kept.get(partition, MessageId.parse(one))
                new_id = sent.new_id if sent else kept.replayed_as if kept else None
                job.note(f"{partition:02d}:{one}", ALREADY, new_id)
            if there:
                yield [there[letter_id] for letter_id in ids if letter_id in there]

    def _parsed(self, name: str, what: str) -> tuple[int, str]:
        try:
            return parse_name(name, self.dead.partitions)
        except ValueError as exc:
            raise Rejected("invalid", f"{what}: {exc}") from None

    def _cursor(self, cursor: str) -> tuple[int, str]:
        return self._parsed(cursor, "cursor")

    async def _record(self, job: Job, phase: str) -> None:
        told: dict[str, Any] = {"job": job.job_id, "phase": phase, "asked": job.asked, "total": job.total}
        if phase == "end":
            told["outcomes"] = dict(job.outcomes)
        await self._audit.record(job.actor, job.kind, SUBJECT, job.why, told)


def _parts(letters: Sequence[Letter], most: int) -> Iterator[list[Letter]]:
    """Cut letters into script calls of *most* letters and not too many characters."""
    part: list[Letter] = []
    size = 0
    for letter in letters:
        length = sum(map(len, letter.fields))
        if part and (len(part) >= most or size + length > GROUP_CHARACTERS):
            yield part
            part, size = [], 0
        part.append(letter)
        size += length
    if part:
        yield part


def _listed(letters: Sequence[Letter], cursor: str | None) -> dict[str, Any]:
    return {"letters": [letter_json(letter) for letter in letters], "next_cursor": cursor}
