"""Who should own what: the same answer everywhere, equal shares, few moves."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.assignment import assign, targets

names = st.sets(st.text("abcdefgh0123456789-", min_size=1, max_size=12), min_size=1, max_size=12)


@given(workers=names, partitions=st.integers(1, 128))
def test_every_partition_has_one_owner_and_shares_differ_by_at_most_one(workers: set[str], partitions: int) -> None:
    owners = assign(workers, partitions)
    assert sorted(owners) == list(range(partitions))
    counts = Counter(owners.values())
    shares = [counts[name] for name in workers]
    assert max(shares) - min(shares) <= 1


@given(workers=names, partitions=st.integers(1, 64))
def test_workers_agree_whatever_order_they_heard_of_each_other_in(workers: set[str], partitions: int) -> None:
    shares = [targets(name, sorted(workers, reverse=True), partitions) for name in workers]
    assert sum(len(share) for share in shares) == partitions
    assert frozenset().union(*shares) == frozenset(range(partitions))


@pytest.mark.parametrize("workers", [2, 3, 4, 8, 16])
def test_one_worker_more_moves_little_more_than_its_share(workers: int) -> None:
    """Modulo hashing would move nearly all of them."""
    before = assign((f"w{n}" for n in range(workers)), 64)
    after = assign((f"w{n}" for n in range(workers + 1)), 64)
    moved = sum(before[p] != after[p] for p in before)
    assert moved <= 2.5 * 64 / (workers + 1)


def test_without_workers_nothing_is_assigned() -> None:
    assert assign([], 16) == {}
