"""The door closes before Redis is full and before the workers drown, and opens again."""

from __future__ import annotations

import re

from tests.integration.ingest.conftest import StartNode
from tests.integration.ingest.harness import KEYS, Node
from tests.until import until
from ticketwire.embedded.redis_server import EmbeddedRedis

OTHER = next(f"t{n}" for n in range(99) if KEYS.partition_of(f"t{n}") != KEYS.partition_of("12345"))


async def status(node: Node, ticket: str = "12345") -> int:
    return (await node.send(ticket=ticket)).status_code


async def test_a_full_partition_refuses_its_messages_only(start_node: StartNode, redis_url: str) -> None:
    """503 with code and Retry-After; other tickets go on; it opens at low water, not a message earlier."""
    node = await start_node(redis_url, max_backlog=20, low_backlog=10)
    stream = KEYS.ingest(KEYS.partition_of("12345"))
    for _ in range(21):
        await node.redis.xadd(stream, {"ticket_id": "12345", "sender_id": "1", "message": "from another producer"})
    await until(lambda: _is(node, 503))
    refused = await node.send()
    assert refused.json()["code"] == "backlog"
    assert re.match(r"2\d messages of partition \d+ wait for the workers, 20 may", refused.json()["error"])
    assert int(refused.headers["retry-after"]) > 0
    assert await status(node, OTHER) == 200
    assert node.health.ready, "other tickets' senders must not be sent away"
    await node.redis.xtrim(stream, maxlen=11, approximate=False)
    closed = [await status(node) for _ in range(20)]
    assert closed == [503] * 20
    await node.redis.xtrim(stream, maxlen=10, approximate=False)
    await until(lambda: _is(node, 200))


async def _is(node: Node, wanted: int) -> bool:
    return await status(node) == wanted


async def test_the_door_closes_before_redis_is_full(start_node: StartNode, own_redis: EmbeddedRedis) -> None:
    """Everyone gets 503 while used memory is over the mark, and 200 when there is room again."""
    node = await start_node(own_redis.url)
    await node.redis.config_set("maxmemory", 100_000_000)
    await node.redis.setrange("filler", 90_000_000, "x")
    await until(lambda: _is(node, 503))
    refused = await node.send(ticket=OTHER)
    assert refused.json()["code"] == "backlog"
    assert "of its memory in use, 85% may be" in refused.json()["error"]
    await node.redis.delete("filler")
    await until(lambda: _is(node, 200))


async def test_a_redis_that_is_full_all_the_same_loses_nothing(start_node: StartNode, own_redis: EmbeddedRedis) -> None:
    """OOM is tried until there is room: the sender waits, and his message is stored once."""
    node = await start_node(own_redis.url, max_redis_memory=1.0, measure_ms=60_000)
    await node.redis.config_set("maxmemory", 1)
    refused = await start_node(own_redis.url, max_redis_memory=1.0, deadline_ms=200)
    answer = await refused.send()
    assert answer.status_code == 503
    await node.redis.config_set("maxmemory", 0)
    assert await status(node) == 200
    assert len(await node.entries()) == 1
