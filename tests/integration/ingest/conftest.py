"""Fixtures: an ingest node on a real Redis, run by uvloop as in production."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest
import uvloop

from tests.integration.ingest.harness import Node, running_node

StartNode = Callable[..., Awaitable[Node]]


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def start_node() -> AsyncIterator[StartNode]:
    """Start a node: `await start_node(redis_url, **settings)`."""
    async with AsyncExitStack() as stack:

        async def start(redis_url: str, **options: Any) -> Node:
            return await stack.enter_async_context(running_node(redis_url, **options))

        yield start


@pytest.fixture
async def node(start_node: StartNode, redis_url: str) -> Node:
    """A node with default settings, without PostgreSQL."""
    return await start_node(redis_url)
