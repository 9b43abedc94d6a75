"""Bounds that readers name are turned into bounds that PostgreSQL can hold, without changing what lies between."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.message_id import MessageId
from ticketwire.archive.rows import lower_bound, upper_bound

EDGES = [0, 1, 2**63 - 2, 2**63 - 1, 2**63, 2**64 - 1]
halves = st.sampled_from(EDGES) | st.integers(0, 2**64 - 1)
named = st.builds(MessageId, halves, halves)
stored = st.builds(MessageId, halves, halves).filter(lambda one: one.storable)


@given(stored, named)
def test_bounds_keep_their_meaning(one: MessageId, bound: MessageId) -> None:
    """A reader may name any id that Redis could give; the archive answers as if it could hold it."""
    low, high = lower_bound(bound), upper_bound(bound)
    assert (low is not None and one > low) == (one > bound)
    assert (high is None or one < high) == (one < bound)


@given(named)
def test_bounds_can_be_stored(bound: MessageId) -> None:
    """Otherwise the statement itself would be refused."""
    assert all(one is None or one.storable for one in (lower_bound(bound), upper_bound(bound)))
