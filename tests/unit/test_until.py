"""The suite's way of waiting."""

from __future__ import annotations

import pytest

from tests.until import until, until_now


async def test_it_returns_the_value_that_came_true() -> None:
    """Of a plain function and of a coroutine function."""
    values = iter([0, 0, 7])

    async def later() -> int:
        return next(values)

    assert await until(later) == 7
    assert await until(lambda: "at once") == "at once"
    assert until_now(lambda: [1]) == [1]


async def test_a_failure_prints_its_condition_and_last_value() -> None:
    """So that a red run can be read without the source beside it."""
    seen = [3]
    with pytest.raises(AssertionError, match=r"(?s)last: False.*len\(seen\) == 2"):
        await until(lambda: len(seen) == 2, timeout_s=0.01)
    with pytest.raises(AssertionError, match=r"(?s)last: None.*seen.clear\(\)"):
        until_now(lambda: seen.clear(), timeout_s=0.01)
