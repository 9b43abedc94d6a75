"""When an entry is tried alone, when it is buried, how a refused batch is split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.retry import Care, care_for, halves, runs


@pytest.mark.parametrize(
    ("deliveries", "care"),
    [(0, Care.TOGETHER), (1, Care.TOGETHER), (2, Care.ALONE), (4, Care.ALONE), (5, Care.BURY), (6, Care.BURY)],
)
def test_suspicion_grows_with_the_workers_that_died(deliveries: int, care: Care) -> None:
    """One death is bad luck for a whole batch; from the second on the entry must clear itself alone."""
    assert care_for(deliveries, max_deliveries=5) is care


@given(st.lists(st.integers(), min_size=2))
def test_halves_lose_nothing_and_keep_the_order(items: list[int]) -> None:
    left, right = halves(items)
    assert [*left, *right] == items
    assert left
    assert right


@given(st.lists(st.tuples(st.integers(), st.booleans())))
def test_suspects_stand_alone_and_the_order_stays(items: list[tuple[int, bool]]) -> None:
    cut = runs(items, lambda item: item[1])
    assert [item for stretch in cut for item in stretch] == items
    assert all(len(stretch) == 1 or not any(suspect for _, suspect in stretch) for stretch in cut)
    assert all(cut), "no empty stretch"
