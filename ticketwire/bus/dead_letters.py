"""Dead letters in Redis: read them, send them again, remove them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha1

from schemas.entries import NotAMessage, decode_submitted
from schemas.events import Submitted
from schemas.message_id import MessageId
from ticketwire.bus.bus import Bus, checked
from ticketwire.bus.connection import Argument

PAGE = 100  # letters in one reply: each can be as large as a message and its envelope
MOST_SCANNED = 1_000  # letters looked at to find one by its entry's id
MOST_STRINGS = 7_000  # of one entry: Lua's `unpack` ends near 8,000

UNREADABLE = "unreadable"  # stands as the reason of what somebody else wrote on a dead-letter stream


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter. `partition.dead_letter` makes them."""

    partition: int
    id: str  # on the dead-letter stream: the entry's own, or a later one when that stream had run ahead
    entry_id: str
    reason: str  # a code of `schemas.problems`, or UNREADABLE
    error: str
    error_class: str
    stage: str
    attempts: int
    first_at_ms: int  # accepted; Unix milliseconds
    last_at_ms: int  # buried
    worker: str
    trace_id: str
    fields: list[str]  # of the entry: field, value, …; bytes that are not UTF-8 stand as lone surrogates
    digest: str  # of `fields` as stored; see replay.lua

    @property
    def name(self) -> str:
        """Its public id. Two partitions may hold the same stream id."""
        return f"{self.partition:02d}:{self.id}"

    @property
    def ticket(self) -> str:
        """The ticket it names, which may be anything or nothing."""
        return dict(zip(self.fields[::2], self.fields[1::2], strict=False)).get("ticket_id", "")

    @property
    def message(self) -> Submitted | None:
        """The message in it, None if this version cannot read it."""
        try:
            found = decode_submitted(self.fields)
        except (NotAMessage, ValueError):
            return None
        return found if isinstance(found, Submitted) else None

    @property
    def sendable(self) -> bool:
        return self.reason != UNREADABLE and 0 < len(self.fields) <= MOST_STRINGS and len(self.fields) % 2 == 0

    def fields_to_send(self) -> list[str]:
        """The entry as it was, byte for byte, and where it can carry it the id under which it was accepted first.

        One that is no message to us gets nothing added: a newer worker may know its version, and what its rules are
        for further fields nobody here can say.
        """
        message = self.message
        if message is None or message.original_id is not None:
            return self.fields
        return [*self.fields, "original_id", self.entry_id]


@dataclass(frozen=True, slots=True)
class Sent:
    """What a letter was sent as."""

    new_id: str
    at_ms: int
    note: str  # as given to `send` by whoever sent it


def parse_name(text: str, partitions: int) -> tuple[int, str]:
    """Read a public id such as `07:1616690567456-0`. Raises ValueError."""
    partition, colon, entry_id = text.partition(":")
    if not (colon and partition.isascii() and partition.isdigit() and len(partition) <= 4):
        raise ValueError(f"{text[:60]!r} is no dead letter's id, expected <partition>:<milliseconds>-<sequence>")
    if int(partition) >= partitions:
        raise ValueError(f"{text[:60]!r} names partition {int(partition)}, there are 0 to {partitions - 1}")
    return int(partition), str(MessageId.parse(entry_id))


class DeadLetters:
    """The dead-letter streams of all partitions. Every method raises Unavailable when Redis is out of reach."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.partitions = bus.keys.partitions

    async def page(self, partition: int, after: str = "", until: str = "+", count: int = PAGE) -> list[Letter]:
        """Return up to *count* letters after the id *after* and up to the id *until*, oldest first."""
        if after == "18446744073709551615-18446744073709551615":  # Redis refuses what begins after the last id of all
            return []
        dead = self._bus.keys.dead(partition)
        start = f"({after}" if after else "-"
        entries = await self._bus.command(dead, "XRANGE", dead, start, until, "COUNT", count)
        return [_letter(partition, entry_id, pairs) for entry_id, pairs in entries]

    async def newest(self, partition: int) -> str:
        """Return the id of the last letter, '' when there is none."""
        dead = self._bus.keys.dead(partition)
        entries = await self._bus.command(dead, "XREVRANGE", dead, "+", "-", "COUNT", 1)
        return str(entries[0][0]) if entries else ""

    async def get(self, partition: int, ids: Sequence[str]) -> dict[str, Letter]:
        """Return those of the letters *ids* that are there."""
        dead = self._bus.keys.dead(partition)
        found: dict[str, Letter] = {}
        for start in range(0, len(ids), PAGE):
            replies = await self._bus.call(dead, *(("XRANGE", dead, i, i) for i in ids[start : start + PAGE]))
            for reply in replies:
                for entry_id, pairs in checked(reply):
                    found[entry_id] = _letter(partition, entry_id, pairs)
        return found

    async def of_entry(self, partition: int, message_id: MessageId) -> Letter | None:
        """Return the letter of an entry, which has its id or, when the stream had run ahead, a later one."""
        found = (await self.get(partition, [str(message_id)])).get(str(message_id))
        if found is not None and found.entry_id == str(message_id):
            return found
        after, scanned = str(message_id), 0
        while scanned < MOST_SCANNED:
            letters = await self.page(partition, after)
            for letter in letters:
                if letter.entry_id == str(message_id):
                    return letter
            if len(letters) < PAGE:
                return None
            after, scanned = letters[-1].id, scanned + len(letters)
        return None

    async def counts(self) -> list[int]:
        """Return the number of letters of every partition."""
        out = []
        for partition in range(self.partitions):
            dead = self._bus.keys.dead(partition)
            out.append(int(await self._bus.command(dead, "XLEN", dead)))
        return out

    async def send(self, partition: int, letters: Sequence[Letter], note: str) -> list[Sent | None]:
        """Send letters again; return for each what it was sent as, by this call or an earlier one not yet recorded.

        None: it is gone; `archive.dead_letters` knows more. Repeating it after Unavailable is safe.
        """
        keys = self._bus.keys
        args: list[Argument] = [note]
        for letter in letters:
            fields = letter.fields_to_send()
            args += (letter.id, letter.digest, len(fields), *fields)
        (replies,) = await self._bus.script(
            "replay", [keys.dead(partition), keys.ingest(partition), keys.replayed(partition)], args
        )
        return [_sent(reply) if reply else None for reply in replies]

    async def remove(self, partition: int, ids: Sequence[str]) -> set[str]:
        """Remove letters; return those that were there until now."""
        dead = self._bus.keys.dead(partition)
        replies = await self._bus.call(dead, *(("XDEL", dead, one) for one in ids)) if ids else []
        return {one for one, reply in zip(ids, replies, strict=True) if checked(reply)}

    async def unrecorded(self, partition: int) -> dict[str, Sent]:
        """Return what was sent and not yet forgotten, by letter id: what a process that died left behind."""
        key = self._bus.keys.replayed(partition)
        found = await self._bus.command(key, "HGETALL", key)
        return {letter_id: _sent(text) for letter_id, text in zip(found[::2], found[1::2], strict=True)}

    async def sent_as(self, partition: int, letter_id: str) -> Sent | None:
        """Return what a letter was sent as, while that is not yet recorded in PostgreSQL."""
        key = self._bus.keys.replayed(partition)
        text = await self._bus.command(key, "HGET", key, letter_id)
        return _sent(text) if text else None

    async def forget(self, partition: int, letter_ids: Sequence[str]) -> None:
        """Forget what letters were sent as: PostgreSQL has it."""
        key = self._bus.keys.replayed(partition)
        if letter_ids:
            await self._bus.command(key, "HDEL", key, *letter_ids)


def _sent(text: str) -> Sent:
    new_id, at_ms, note = text.split(" ", 2)
    return Sent(new_id, int(at_ms), note)


def _letter(partition: int, letter_id: str, pairs: Sequence[str]) -> Letter:
    found = dict(zip(pairs[::2], pairs[1::2], strict=True))
    stored = found.get("fields", "")
    letter = Letter(
        partition=partition,
        id=letter_id,
        entry_id=letter_id,
        reason=UNREADABLE,
        error="the dead-letter stream holds something that is no dead letter",
        error_class=found.get("error_class", ""),
        stage=found.get("stage", ""),
        attempts=0,
        first_at_ms=MessageId.parse(letter_id).ms,
        last_at_ms=MessageId.parse(letter_id).ms,
        worker=found.get("worker", ""),
        trace_id=found.get("trace_id", ""),
        fields=list(pairs),
        digest=sha1(stored.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest(),
    )
    try:
        fields = json.loads(stored)
        if not (isinstance(fields, list) and all(isinstance(one, str) for one in fields)):
            raise ValueError("not a list of strings")
        return replace(
            letter,
            entry_id=str(MessageId.parse(found["entry_id"])),
            reason=found["reason"],
            error=found["error"],
            attempts=int(found["attempts"]),
            first_at_ms=int(found["first_at_ms"]),
            last_at_ms=int(found["last_at_ms"]),
            fields=fields,
        )
    except (KeyError, ValueError):
        return letter  # not of our making: shown as it is, never sent
