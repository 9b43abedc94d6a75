"""Wait for events, never for time."""

from __future__ import annotations

import asyncio
import inspect
import os
import textwrap
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

SLOWDOWN = float(os.environ.get("TEST_SLOWDOWN", "1"))


def scaled(seconds: float) -> float:
    """Return *seconds* as they pass on this machine: `TEST_SLOWDOWN=3` grants three times as much."""
    return seconds * SLOWDOWN


async def until(condition: Callable[[], T | Awaitable[T]], timeout_s: float = 10.0, every_s: float = 0.01) -> T:
    """Return *condition*'s value as soon as it is true. It may be a coroutine function.

    Fails, printing the condition and its last value, after *timeout_s* (scaled by TEST_SLOWDOWN).
    """
    deadline = time.monotonic() + scaled(timeout_s)
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value  # type: ignore[return-value]
        if time.monotonic() > deadline:
            raise AssertionError(f"not so within {scaled(timeout_s):g} s (last: {value!r}):\n{_source(condition)}")
        await asyncio.sleep(every_s)


def until_now(condition: Callable[[], T], timeout_s: float = 10.0, every_s: float = 0.01) -> T:
    """The same for code outside an event loop."""
    deadline = time.monotonic() + scaled(timeout_s)
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not so within {scaled(timeout_s):g} s (last: {value!r}):\n{_source(condition)}")
        time.sleep(every_s)
    return value


def _source(condition: Callable[[], object]) -> str:
    try:
        return textwrap.dedent(inspect.getsource(condition)).strip()
    except (OSError, TypeError):
        return repr(condition)
