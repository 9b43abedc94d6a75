"""A worker's surroundings: its settings, and an open bus and archive."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.pipeline import make_settings, open_all
from ticketwire.archive.messages import Archive
from ticketwire.bus.bus import Bus
from workers.settings import WorkerSettings


@pytest.fixture
def settings(redis_url: str, postgres_url: str) -> WorkerSettings:
    return make_settings(redis_url, postgres_url)


@pytest.fixture
async def core(settings: WorkerSettings) -> AsyncIterator[tuple[Bus, Archive]]:
    async with open_all(settings) as both:
        yield both
