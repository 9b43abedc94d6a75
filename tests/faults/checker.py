"""Say what became of every message, from what producers, archive, Redis and readers recorded. Pure.

A message is known by its key: the idempotency key under which its producer sent it, again and again if it had to, and
which is the message's text as well. One producer sends a ticket's messages one after another, so the order in which
keys were sent is the order of acceptance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields

from schemas.message_id import ZERO, MessageId

SHOWN = ("confirmed", "masked")


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message that ingest answered with an id."""

    key: str
    message_id: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A message in a log or on a socket."""

    message_id: str
    key: str


@dataclass(frozen=True, slots=True)
class Row:
    """A message in the archive."""

    ticket: str
    message_id: str
    key: str
    status: str = "confirmed"


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter."""

    ticket: str
    entry_id: str
    key: str
    reason: str = "poison"


@dataclass(slots=True)
class ClientLog:
    """What one subscriber received, over all its connections."""

    name: str
    ticket: str
    received: list[Shown] = field(default_factory=list)
    since: MessageId = ZERO  # where it began
    # Ids that the archive did not have when they were asked for right after they arrived here.
    unarchived: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Evidence:
    """Everything recorded in a run. Lists are in the order of what happened or of what lies there."""

    sent: Mapping[str, Sequence[str]]  # ticket -> keys, answered or not
    accepted: Mapping[str, Sequence[Accepted]]  # ticket -> answers
    archive: Sequence[Row] = ()
    logs: Mapping[str, Sequence[Shown]] = field(default_factory=dict)
    dead: Sequence[Letter] = ()
    pending: frozenset[str] = frozenset()  # ids that still lie on an ingest stream
    clients: Sequence[ClientLog] = ()
    trimmed: bool = False  # whether logs may lack their beginning


@dataclass(slots=True)
class Findings:
    """One sentence for each violation, by its kind. `clean` when there is none."""

    lost: list[str] = field(default_factory=list)  # accepted, and nowhere
    unsettled: list[str] = field(default_factory=list)  # accepted, and not settled when the run was over
    archive_duplicates: list[str] = field(default_factory=list)
    log_duplicates: list[str] = field(default_factory=list)
    client_duplicates: list[str] = field(default_factory=list)  # a message twice under different ids
    reordered: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)  # shown in the archive, but not in the log or not to a client
    unarchived: list[str] = field(default_factory=list)  # shown before it was archived, or without
    renamed: list[str] = field(default_factory=list)  # archived under another id than its producer was told
    two_fates: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)  # nobody sent it

    @property
    def clean(self) -> bool:
        return not any(self.counts().values())

    def counts(self) -> dict[str, int]:
        return {kind.name: len(getattr(self, kind.name)) for kind in fields(self)}

    def describe(self, most: int = 5) -> str:
        """The first few of each kind, for a failing test."""
        lines = []
        for kind, count in self.counts().items():
            if count:
                lines += [f"{kind}: {count}", *(f"  {one}" for one in getattr(self, kind)[:most])]
        return "\n".join(lines) or "nothing"


def check(evidence: Evidence) -> Findings:
    """Hold the promises against *evidence*, which was collected when everything had settled."""
    found = Findings()
    rows = {(row.ticket, row.message_id): row for row in evidence.archive}
    letters = {(letter.ticket, letter.entry_id): letter for letter in evidence.dead}
    holders: dict[tuple[str, str], list[str]] = {}  # where a key's message is now
    for row in evidence.archive:
        if row.status != "moved":
            holders.setdefault((row.ticket, row.key), []).append(row.message_id)
    _check_fates(evidence, rows, letters, holders, found)
    _check_archive(evidence, letters, found)
    shown = _shown_by_ticket(evidence.archive)
    for ticket in sorted(evidence.sent.keys() | shown.keys() | evidence.logs.keys()):
        order = {key: nr for nr, key in enumerate(evidence.sent.get(ticket, ()))}
        archived = shown.get(ticket, [])
        found.reordered += _inversions(f"archive of {ticket}", archived, order)
        log = evidence.logs.get(ticket, ())
        _check_log(ticket, log, archived, order, evidence.trimmed, found)
        for client in evidence.clients:
            if client.ticket == ticket:
                _check_client(client, archived, order, found)
    return found


def _check_fates(
    evidence: Evidence,
    rows: Mapping[tuple[str, str], Row],
    letters: Mapping[tuple[str, str], Letter],
    holders: Mapping[tuple[str, str], Sequence[str]],
    found: Findings,
) -> None:
    for ticket, answers in evidence.accepted.items():
        for answer in answers:
            place = (ticket, answer.message_id)
            held_at = holders.get((ticket, answer.key), ())
            letter = letters.get(place)
            if answer.message_id in evidence.pending:
                found.unsettled.append(f"{answer.message_id} of {ticket} ({answer.key})")
            elif letter is not None and letter.reason != "duplicate":
                pass  # buried: a fate
            elif not held_at:
                found.lost.append(f"{answer.message_id} of {ticket} ({answer.key})")
            elif answer.message_id not in held_at and not (place in rows and rows[place].status == "moved"):
                found.renamed.append(f"{answer.key} of {ticket}: told {answer.message_id}, is {', '.join(held_at)}")


def _check_archive(evidence: Evidence, letters: Mapping[tuple[str, str], Letter], found: Findings) -> None:
    places = Counter((row.ticket, row.message_id) for row in evidence.archive)
    keys = Counter((row.ticket, row.key) for row in evidence.archive if row.status != "moved")
    found.archive_duplicates += [f"id {at} of {ticket}, {n} rows" for (ticket, at), n in places.items() if n > 1]
    found.archive_duplicates += [f"{key} of {ticket}, {n} rows" for (ticket, key), n in keys.items() if n > 1]
    for row in evidence.archive:
        if row.status == "moved":
            continue
        if row.key not in evidence.sent.get(row.ticket, ()):
            found.unknown.append(f"archive of {row.ticket}: {row.message_id} ({row.key})")
        letter = letters.get((row.ticket, row.message_id))
        if letter is not None and letter.reason != "duplicate":
            found.two_fates.append(f"{row.message_id} of {row.ticket}: {row.status} and dead ({letter.reason})")


def _check_log(
    ticket: str,
    log: Sequence[Shown],
    archived: Sequence[Shown],
    order: Mapping[str, int],
    trimmed: bool,
    found: Findings,
) -> None:
    found.log_duplicates += [f"log of {ticket}: {key}, {n} times" for key, n in _repeated(e.key for e in log)]
    found.reordered += _inversions(f"log of {ticket}", log, order)
    known = {entry.message_id for entry in archived}
    found.unarchived += [
        f"log of {ticket}: {e.message_id} ({e.key}) is not in the archive" for e in log if e.message_id not in known
    ]
    start = MessageId.parse(log[0].message_id) if log and trimmed else ZERO
    have = {entry.message_id for entry in log}
    found.gaps += [
        f"log of {ticket}: {e.message_id} ({e.key}) is missing"
        for e in archived
        if MessageId.parse(e.message_id) >= start and e.message_id not in have
    ]


def _check_client(client: ClientLog, archived: Sequence[Shown], order: Mapping[str, int], found: Findings) -> None:
    who = f"{client.name} on {client.ticket}"
    found.client_duplicates += [
        f"{who}: {key} under {n} ids"
        for key, n in _repeated(key for _, key in {(e.message_id, e.key) for e in client.received})
    ]
    first = list({(e.message_id, e.key): e for e in client.received}.values())  # a repeat with the same id is lawful
    found.reordered += _inversions(who, first, order)
    known = {entry.message_id for entry in archived}
    found.unarchived += [f"{who}: {e.message_id} ({e.key})" for e in first if e.message_id not in known]
    found.unarchived += [f"{who}: {at} was not archived yet" for at in client.unarchived]
    got = {entry.message_id for entry in first}
    found.gaps += [
        f"{who}: {e.message_id} ({e.key}) never came"
        for e in archived
        if MessageId.parse(e.message_id) > client.since and e.message_id not in got
    ]
    found.unknown += [f"{who}: {e.message_id} ({e.key})" for e in first if e.key not in order]


def _shown_by_ticket(archive: Iterable[Row]) -> dict[str, list[Shown]]:
    """What history shows, in its order."""
    shown: dict[str, list[Shown]] = {}
    for row in sorted(archive, key=lambda row: MessageId.parse(row.message_id)):
        if row.status in SHOWN:
            shown.setdefault(row.ticket, []).append(Shown(row.message_id, row.key))
    return shown


def _inversions(where: str, entries: Sequence[Shown], order: Mapping[str, int]) -> list[str]:
    """Name the entries that stand behind one that was sent after them."""
    out = []
    latest, latest_key = -1, ""
    for entry in entries:
        nr = order.get(entry.key)
        if nr is None:
            continue  # `unknown` says so
        if nr < latest:
            out.append(f"{where}: {entry.key} ({entry.message_id}) comes after {latest_key}")
        else:
            latest, latest_key = nr, entry.key
    return out


def _repeated(keys: Iterable[str]) -> list[tuple[str, int]]:
    return [(key, n) for key, n in Counter(keys).items() if n > 1]
