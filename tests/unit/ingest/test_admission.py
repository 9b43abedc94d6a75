"""The doors close at high water, open at low water, and say why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.admission import Admission, Marks

MARKS = Marks(max_backlog=100, low_backlog=80, max_memory=0.85, low_memory=0.80)


def door() -> Admission:
    """A door that has seen an empty Redis with four partitions."""
    admission = Admission(MARKS)
    admission.observe([0, 0, 0, 0], 0.0)
    return admission


def test_nothing_comes_in_before_redis_was_seen() -> None:
    """Another number of partitions would put messages where no worker looks for them."""
    refusal = Admission(MARKS).refusal(0)
    assert refusal is not None
    assert (refusal.code, refusal.problem.status) == ("unavailable", 503)


@pytest.mark.parametrize(
    ("seen", "open_after"),
    [
        ([100], True),  # the mark itself is allowed
        ([101], False),
        ([101, 81], False),  # between the waters: as before
        ([101, 80], True),
        ([99, 100, 90], True),
        ([101, 80, 81], True),  # open again: only high water closes
    ],
)
def test_a_partition_closes_at_high_water_and_opens_at_low_water(seen: list[int], open_after: bool) -> None:
    """Without the distance between the marks a door at its mark would open and close at every look."""
    admission = door()
    for entries in seen:
        admission.observe([0, entries, 0, 0], 0.1)
    assert (admission.refusal(1) is None) is open_after
    assert admission.refusal(0) is None, "a full partition is no reason to refuse another's messages"
    assert admission.closed_partitions == (0 if open_after else 1)


@pytest.mark.parametrize(
    ("seen", "open_after"),
    [([0.85], True), ([0.86], False), ([0.86, 0.81], False), ([0.86, 0.80], True), ([0.5, 0.84], True)],
)
def test_memory_closes_every_partition(seen: list[float], open_after: bool) -> None:
    """A full Redis takes no message of anyone."""
    admission = door()
    for share in seen:
        admission.observe([0, 0, 0, 0], share)
    assert all((admission.refusal(p) is None) is open_after for p in range(4))
    assert admission.open is open_after
    assert admission.closed_partitions == (0 if open_after else 4)


def test_a_refusal_says_what_was_found_and_what_is_allowed() -> None:
    """The sender learns the figures, the code and when to come back."""
    admission = door()
    admission.observe([0, 1_234, 0, 0], 0.1)
    refusal = admission.refusal(1)
    assert refusal is not None
    assert refusal.detail == "1,234 messages of partition 1 wait for the workers, 100 may"
    assert (refusal.code, refusal.retry_after_s > 0) == ("backlog", True)


def test_draining_wins_and_stays() -> None:
    """A node that is stopping takes nothing, however empty Redis is."""
    admission = door()
    admission.drain()
    admission.observe([0, 0, 0, 0], 0.0)
    refusal = admission.refusal(0)
    assert refusal is not None
    assert refusal.code == "draining"


def test_a_look_opens_what_an_outage_had_shut() -> None:
    """`shut` lasts until Redis is seen again, no longer."""
    admission = door()
    admission.shut("Redis: connection refused")
    refusal = admission.refusal(0)
    assert refusal is not None
    assert "connection refused" in refusal.detail
    admission.observe([0, 0, 0, 0], 0.0)
    assert admission.open


@given(st.lists(st.tuples(st.lists(st.integers(0, 200), min_size=3, max_size=3), st.floats(0, 1)), max_size=30))
def test_open_never_disagrees_with_the_single_doors(looks: list[tuple[list[int], float]]) -> None:
    """The short cut of the hot path lets in exactly what each partition's door would let in."""
    admission = Admission(MARKS)
    for backlog, memory in looks:
        admission.observe(backlog, memory)
        assert admission.open == all(admission.refusal(p) is None for p in range(3))
        for partition, entries in enumerate(backlog):
            if entries > MARKS.max_backlog or memory > MARKS.max_memory:
                assert admission.refusal(partition) is not None
            if entries <= MARKS.low_backlog and memory <= MARKS.low_memory:
                assert admission.refusal(partition) is None
