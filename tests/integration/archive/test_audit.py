"""The audit chain is linear whoever writes, and shows every row that was removed or changed."""

from __future__ import annotations

import asyncio

import pytest

from ticketwire.archive.audit import Audit, Decision
from ticketwire.archive.messages import Archive
from ticketwire.errors import Rejected


@pytest.fixture
async def audit(archive: Archive) -> Audit:
    """Five decisions on record."""
    audit = Audit(archive.database)
    for n in range(5):
        await audit.record(
            "ann", "purge", f"letter {n}", "tidy\nup \"'🐢", {"n": n, "deep": [1.50, None, {"b": 1, "a": 2}]}
        )
    return audit


async def test_an_untouched_chain_is_whole(audit: Audit) -> None:
    """And its head changes with each decision."""
    before = await audit.verify_chain()
    assert (before.rows, before.broken, before.whole) == (5, [], True)
    assert await audit.record("bob", "approve", "message 7/1-0", "fine", {}) == 6
    after = await audit.verify_chain()
    assert (after.rows, after.whole) == (6, True)
    assert after.head != before.head


async def test_an_empty_chain_is_whole(archive: Archive) -> None:
    """Nothing was decided yet."""
    report = await Audit(archive.database).verify_chain()
    assert (report.rows, report.head, report.whole) == (0, "00" * 32, True)


@pytest.mark.parametrize(
    "detail",
    [{"x": 1e300}, {"x": 1e-7}, {"x": 10**30}, {"x": 0.1 + 0.2}, {"ü": "\u2028\\"}, {"b": 1, "a": {"z": [], "y": {}}}],
)
async def test_detail_is_hashed_as_postgresql_gives_it_back(archive: Archive, detail: dict[str, object]) -> None:
    """jsonb reorders keys and rewrites numbers; that is no change by anybody."""
    audit = Audit(archive.database)
    await audit.record("ann", "purge", "x", "y", detail)
    assert (await audit.verify_chain()).whole


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("UPDATE audit SET why = 'other' WHERE id = 3", ["row 3 was changed"]),
        ("UPDATE audit SET actor = 'bob' WHERE id = 5", ["row 5 was changed"]),
        ("UPDATE audit SET at = at + interval '1 microsecond' WHERE id = 1", ["row 1 was changed"]),
        ("UPDATE audit SET detail = '{}' WHERE id = 2", ["row 2 was changed"]),
        ("UPDATE audit SET hash = sha256('x') WHERE id = 2", ["row 2 was changed", "row 3 does not follow row 2"]),
        ("DELETE FROM audit WHERE id = 1", ["row 1 is missing"]),
        ("DELETE FROM audit WHERE id IN (2, 3)", ["rows 2 to 3 are missing"]),
        ("DELETE FROM audit WHERE id = 5", ["row 5 is missing"]),
        ("DELETE FROM audit", ["rows 1 to 5 are missing"]),
        ("DELETE FROM audit_head", ["the head of the chain is missing"]),
        (
            "DELETE FROM audit WHERE id = 5; UPDATE audit_head SET id = 4",
            ["row 4 is not the one that the head of the chain was made for"],
        ),
        (
            "INSERT INTO audit SELECT 6, at, actor, action, subject, why, detail, hash, hash FROM audit WHERE id = 5",
            ["row 6 was changed", "the chain ends with row 6, but its head says row 5"],
        ),
        # Swapped: each keeps its place and hash, not its content.
        (
            "UPDATE audit AS a SET subject = b.subject FROM audit AS b WHERE (a.id, b.id) IN ((2, 3), (3, 2))",
            ["row 2 was changed", "row 3 was changed"],
        ),
    ],
)
async def test_every_damage_is_named(archive: Archive, audit: Audit, damage: str, found: list[str]) -> None:
    """What somebody did by hand shows, with the row it was done to."""
    for statement in damage.split(";"):
        await archive.database.execute(statement)
    report = await audit.verify_chain()
    assert report.broken == found
    assert not report.whole


async def test_writers_at_once_make_one_line(archive: Archive) -> None:
    """Decisions of several processes follow each other; a batch stays together and in order."""
    audit = Audit(archive.database)
    batch = [Decision("rule@1", "hold", f"message {n}", "link", {}) for n in range(10)]
    last = await asyncio.gather(*(audit.record_all(batch) for _ in range(20)))
    assert sorted(last) == list(range(10, 201, 10))
    assert (await audit.verify_chain()).rows == 200
    assert (await audit.verify_chain()).whole
    subjects = await archive.database.fetch("SELECT subject FROM audit ORDER BY id")
    assert [row[0] for row in subjects] == [one.subject for one in batch] * 20


async def test_a_long_chain_is_read_in_pages(archive: Archive) -> None:
    """Verification does not hold the chain in memory; damage beyond the first page is found too."""
    audit = Audit(archive.database)
    await audit.record_all([Decision("rule@1", "hold", f"message {n}", "link", {}) for n in range(2_500)])
    assert (await audit.verify_chain()).whole
    await archive.database.execute("UPDATE audit SET why = 'x' WHERE id = 2400")
    assert (await audit.verify_chain()).broken == ["row 2400 was changed"]


async def test_a_decision_that_is_refused_leaves_no_hole(archive: Archive, audit: Audit) -> None:
    """A number belongs to a row or to nobody: the chain goes on with the next."""
    with pytest.raises(Rejected):
        await audit.record_all([Decision("ann", "hold", "a", "b", {}), Decision("ann", "hold", "a\x00", "b", {})])
    with pytest.raises(ValueError, match="JSON compliant"):
        await audit.record("ann", "hold", "a", "b", {"x": float("nan")})
    assert await audit.record("ann", "hold", "a", "b", {}) == 6
    assert (await audit.verify_chain()).whole


async def test_nothing_to_record_changes_nothing(audit: Audit) -> None:
    """It answers with the number of the last decision."""
    assert await audit.record_all([]) == 5
    assert (await audit.verify_chain()).rows == 5
