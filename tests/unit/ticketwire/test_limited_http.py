"""An answer's head waits for what follows it in the same tick, never longer, and is never lost."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from ticketwire.limited_http import Joined


class Written:
    """What a transport was told."""

    def __init__(self) -> None:
        self.calls: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.calls.append(data)

    def close(self) -> None:
        self.calls.append(b"closed")

    def is_closing(self) -> bool:
        return b"closed" in self.calls


@pytest.fixture
async def pair() -> tuple[Joined, Written]:
    written = Written()
    return Joined(cast(asyncio.Transport, written), asyncio.get_running_loop()), written


async def test_head_and_body_are_one_write(pair: tuple[Joined, Written]) -> None:
    joined, written = pair
    joined.write(b"head ")
    joined.write(b"body")
    joined.write(b"more")
    await asyncio.sleep(0)
    assert written.calls == [b"head body", b"more"]


async def test_an_empty_body_sends_the_head(pair: tuple[Joined, Written]) -> None:
    joined, written = pair
    joined.write(b"head")
    joined.write(b"")
    assert written.calls == [b"head"]


async def test_a_head_whose_body_is_late_goes_ahead(pair: tuple[Joined, Written]) -> None:
    """As of a stream of events."""
    joined, written = pair
    joined.write(b"head")
    await asyncio.sleep(0)
    assert written.calls == [b"head"]
    joined.write(b"body")
    await asyncio.sleep(0)
    assert written.calls == [b"head", b"body"]


async def test_closing_sends_what_is_held(pair: tuple[Joined, Written]) -> None:
    joined, written = pair
    joined.write(b"head")
    joined.close()
    await asyncio.sleep(0)
    assert written.calls == [b"head", b"closed"]
    assert joined.is_closing()
