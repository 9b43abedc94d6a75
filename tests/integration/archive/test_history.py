"""What readers, the fate call and a new owner of a partition ask the archive."""

from __future__ import annotations

import itertools
import time

import pytest

from schemas.events import Confirmed
from schemas.message_id import MessageId
from ticketwire.archive.messages import Archive
from ticketwire.archive.rows import ArchiveRow, Outcome, Status
from ticketwire.errors import Rejected

# Ids across both halves; some are no part of what is shown.
IDS = [MessageId(ms, seq) for ms in (5, 6, 10, 2**63 - 1) for seq in (0, 1, 9, 10, 2**63 - 1)]
HIDDEN: dict[MessageId, Status] = {IDS[2]: "held", IDS[7]: "rejected", IDS[8]: "deleted"}
SHOWN = [one for one in IDS if one not in HIDDEN]
BOUNDS = [None, MessageId(0, 0), IDS[0], IDS[2], IDS[6], MessageId(7, 0), IDS[-2], IDS[-1]]
BEYOND = [MessageId(6, 2**64 - 1), MessageId(2**63 - 1, 2**64 - 1), MessageId(2**64 - 1, 0)]


def row(one: MessageId, ticket: str = "7", status: Status = "confirmed") -> ArchiveRow:
    return ArchiveRow(ticket, one.ms, one.seq, 3, "ann", f"body of {one}", status, 1_616_690_567)


@pytest.fixture
async def filled(archive: Archive) -> Archive:
    """Ticket 7 with all of IDS, stored in no order, among messages of another ticket."""
    rows = [row(one, status=HIDDEN.get(one, "masked" if one.seq == 9 else "confirmed")) for one in IDS]
    await archive.store([*rows[::-1], row(MessageId(6, 5), "70"), row(MessageId(11, 0), "70")])
    return archive


def ids(events: list[Confirmed]) -> list[MessageId]:
    return [event.position for event in events]


async def test_history_pages_are_exact_for_every_pair_of_bounds(filled: Archive) -> None:
    """Bounds are exclusive and may be any id that Redis could give; only shown messages of the ticket, in order."""
    for after, before in itertools.product([*BOUNDS, *BEYOND], repeat=2):
        inside = [one for one in SHOWN if (after is None or one > after) and (before is None or one < before)]
        for limit in (1, 3, 100):
            page = await filled.history("7", before=before, after=after, limit=limit)
            assert ids(page) == (inside[:limit] if after is not None else inside[-limit:]), (after, before, limit)


async def test_a_page_holds_whole_events(archive: Archive) -> None:
    """A client cannot tell a message from history from a live one."""
    given = ArchiveRow(
        "7",
        1_616_690_567_456,
        0,
        3,
        "ann",
        "Ünïcode 🐢",
        "masked",
        1_616_690_560,
        '{"rule": "x"}',
        "5-0",
        "key",
        "a" * 32,
    )
    await archive.store([given])
    assert await archive.history("7", limit=10) == [
        Confirmed("7", "1616690567456-0", "ann", "Ünïcode 🐢", 1_616_690_560, "key", "5-0", "a" * 32)
    ]


async def test_an_unknown_ticket_has_an_empty_history(filled: Archive) -> None:
    """Asking about nothing is no error."""
    assert await filled.history("nobody", limit=10) == []
    assert await filled.newest("nobody") is None
    assert await filled.newest_of_partition(4) is None
    assert await filled.find("nobody", IDS[0]) is None


async def test_find_tells_the_fate_and_keeps_the_body_to_itself(archive: Archive) -> None:
    """The fate of a held message is known; its text only to who asks for it on purpose."""
    before_ms = time.time() * 1_000
    await archive.store([row(IDS[0], status="held")._replace(verdict='{"rule": "links"}', trace_id="b" * 32)])
    found = await archive.find("7", IDS[0])
    assert found is not None
    assert (found.message_id, found.status, found.body) == (IDS[0], "held", None)
    assert (found.verdict, found.sent_at, found.trace_id) == ('{"rule": "links"}', 1_616_690_567, "b" * 32)
    assert abs(found.archived_at_ms - before_ms) < 60_000
    with_body = await archive.find("7", IDS[0], with_body=True)
    assert with_body is not None
    assert with_body.body == f"body of {IDS[0]}"


async def test_an_id_larger_than_the_archive_can_hold_is_not_found(filled: Archive) -> None:
    """The id is valid in Redis, so it is no error, only unknown."""
    assert await filled.find("7", MessageId(2**64 - 1, 0)) is None


async def test_newest_ids(filled: Archive) -> None:
    """A ticket's newest is one that is shown; a partition's newest counts in any status."""
    assert await filled.newest("7") == IDS[-1]
    assert await filled.newest("70") == MessageId(11, 0)
    await filled.store([row(MessageId(12, 0), "70", "held")._replace(partition=5)])
    await filled.store([row(MessageId(11, 5), "70")._replace(partition=5)])
    assert await filled.newest("70") == MessageId(11, 5)
    assert await filled.newest_of_partition(5) == MessageId(12, 0)


async def test_what_is_to_be_confirmed_again_comes_in_pages_in_order(filled: Archive) -> None:
    """After Redis lost its tail a new owner reads all shown messages of its partition above the watermark."""
    expected = sorted([*SHOWN, MessageId(6, 5), MessageId(11, 0)])
    found: list[MessageId] = []
    at = MessageId(0, 0)
    while page := await filled.confirmed_after(3, at, 4):
        assert len(page) <= 4
        found += [one.message_id for one in page]
        at = found[-1]
    assert found == expected
    assert await filled.confirmed_after(3, MessageId(2**64 - 1, 0), 4) == []
    assert await filled.confirmed_after(4, MessageId(0, 0), 4) == []


async def test_a_renamed_message_moves_and_its_old_id_stays_taken(archive: Archive) -> None:
    """The log took message 5-0 as 8-0: history shows it there once, and a repeat of 5-0 finds it there."""
    old, new = MessageId(5, 0), MessageId(8, 0)
    given = row(old)._replace(client_message_id="k", verdict='{"rule": "x"}', trace_id="c" * 32, status="masked")
    await archive.store([given, row(MessageId(6, 0))])
    for _ in range(2):  # its worker may die before it knows that the first one succeeded
        await archive.rename("7", old, new)
    moved = given._replace(id_ms=8, original_id="5-0")
    assert ids(await archive.history("7", limit=10)) == [MessageId(6, 0), new]
    (stored,) = await archive.store([given])
    assert (stored.outcome, stored.row) == (Outcome.REPEAT, moved)
    found = await archive.find("7", old)
    assert found is not None
    assert (found.message_id, found.original_id, found.status) == (new, "5-0", "masked")
    (again,) = await archive.store([row(MessageId(9, 0))._replace(client_message_id="k")])
    assert (again.outcome, again.duplicate_of) == (Outcome.DUPLICATE, new)


async def test_a_message_may_be_renamed_once_more(archive: Archive) -> None:
    """Redis lost the log again: the oldest id still leads to the newest place."""
    await archive.store([row(MessageId(5, 0))])
    await archive.rename("7", MessageId(5, 0), MessageId(8, 0))
    await archive.rename("7", MessageId(8, 0), MessageId(9, 0))
    for one in (5, 8, 9):
        found = await archive.find("7", MessageId(one, 0))
        assert found is not None
        assert (found.message_id, found.original_id) == (MessageId(9, 0), "5-0")
    (stored,) = await archive.store([row(MessageId(5, 0))])
    assert stored.row.message_id == MessageId(9, 0)
    await archive.rename("7", MessageId(5, 0), MessageId(10, 0))  # by its first id
    assert ids(await archive.history("7", limit=10)) == [MessageId(10, 0)]


async def test_a_rename_of_nothing_or_onto_another_message_is_refused(archive: Archive) -> None:
    """And changes nothing."""
    await archive.store([row(MessageId(5, 0)), row(MessageId(8, 0))])
    with pytest.raises(Rejected, match="message 6-0 of ticket 7 is not in the archive"):
        await archive.rename("7", MessageId(6, 0), MessageId(9, 0))
    with pytest.raises(Rejected) as caught:
        await archive.rename("7", MessageId(5, 0), MessageId(8, 0))
    assert caught.value.code == "archive_refused"
    assert ids(await archive.history("7", limit=10)) == [MessageId(5, 0), MessageId(8, 0)]
