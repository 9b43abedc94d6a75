"""Fixtures: a delivery node on a real Redis and PostgreSQL, run by uvloop as in production."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest
import uvloop

from tests.integration.delivery.harness import Tier, running_tier
from tests.until import until

StartTier = Callable[..., Awaitable[Tier]]


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def start_tier(redis_url: str, postgres_url: str) -> AsyncIterator[StartTier]:
    """Start a ready node with settings of one's choice; the position check is a minute away unless one asks."""
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> Tier:
            urls = options.pop("redis_url", redis_url), options.pop("postgres_url", postgres_url)
            tier = await stack.enter_async_context(running_tier(*urls, **options))
            await until(lambda: tier.health.ready)
            await tier.worker.bus.check()
            return tier

        yield start


@pytest.fixture
async def tier(start_tier: StartTier) -> Tier:
    """A ready node with default settings."""
    return await start_tier()
