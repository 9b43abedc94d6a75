"""A request that is held back until there is news."""

from __future__ import annotations

import asyncio


class LongPoll:
    """A room's reader that only wants to know that something came."""

    def __init__(self, ending: asyncio.Event) -> None:
        self._ending = ending  # this node stops: answer with what there is
        self._news = asyncio.Event()

    @property
    def over(self) -> bool:
        return self._ending.is_set()

    def write(self, data: bytes) -> None:
        self._news.set()

    async def woken(self) -> None:
        """Wait for news, or for the end of this node."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._news, self._ending)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._news.clear()
