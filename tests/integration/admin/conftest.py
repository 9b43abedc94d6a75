"""One deployment and its admin API."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.admin.harness import Api, Core, running_api
from tests.pipeline import make_settings, open_all
from workers.settings import WorkerSettings


@pytest.fixture
def settings(redis_url: str, postgres_url: str) -> WorkerSettings:
    return make_settings(redis_url, postgres_url)


@pytest.fixture
async def core(settings: WorkerSettings) -> AsyncIterator[Core]:
    async with open_all(settings) as both:
        yield both


@pytest.fixture
async def api(settings: WorkerSettings, core: Core) -> AsyncIterator[Api]:
    async with running_api(settings) as api:
        yield api
