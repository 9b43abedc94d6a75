"""An archive on a database of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.until import scaled
from ticketwire.archive.messages import Archive, open_archive


@pytest.fixture
async def archive(postgres_url: str) -> AsyncIterator[Archive]:
    async with open_archive(postgres_url, size=4, timeout_s=scaled(10)) as archive:
        yield archive
