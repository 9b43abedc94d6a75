"""Redis stalls, dies and comes back: nothing accepted is lost, nothing is stored twice."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter

import httpx

from tests.integration.ingest.conftest import StartNode
from tests.integration.ingest.harness import Node
from tests.until import scaled, until
from ticketwire.embedded.redis_server import EmbeddedRedis


async def burst(node: Node, name: str, count: int = 60) -> list[httpx.Response]:
    return await asyncio.gather(*(node.send(f"{name} {n}", ticket=f"t{n % 9}") for n in range(count)))


async def accepted_once(node: Node, answers: list[httpx.Response]) -> None:
    """Every accepted message is on its stream under its id, and no text is there twice."""
    entries = {f"{fields['ticket_id']} {entry_id}": fields["message"] for entry_id, fields in await node.entries()}
    assert set(Counter(entries.values()).values()) <= {1}
    ids = {key.partition(" ")[2] for key in entries}
    assert {answer.json()["message_id"] for answer in answers if answer.status_code == 200} <= ids


async def test_a_stall_within_the_deadline_is_only_a_delay(start_node: StartNode, own_redis: EmbeddedRedis) -> None:
    """The call is given up and sent again while the first one still lies in Redis's socket: both are carried out."""
    node = await start_node(own_redis.url, redis_timeout_ms=200, deadline_ms=round(scaled(20_000)))
    assert own_redis.process is not None
    first = await burst(node, "before")
    own_redis.process.send_signal(signal.SIGSTOP)
    during = asyncio.create_task(burst(node, "during"))
    await until(lambda: not node.health.ready)  # a call has timed out by then, and ours as well
    await asyncio.sleep(scaled(0.5))  # the stall's length, not a wait for an event
    assert not during.done()
    own_redis.process.send_signal(signal.SIGCONT)
    answers = first + await during + await burst(node, "after")
    assert {answer.status_code for answer in answers} == {200}
    await accepted_once(node, answers)
    assert len(await node.entries()) == 180


async def test_a_stall_beyond_the_deadline_is_503(start_node: StartNode, own_redis: EmbeddedRedis) -> None:
    """With Retry-After; under the same key the retry finds what the late call stored, and nothing doubles."""
    node = await start_node(own_redis.url, redis_timeout_ms=100, deadline_ms=300)
    assert own_redis.process is not None
    own_redis.process.send_signal(signal.SIGSTOP)
    keyed = [node.send(f"{n}", client_message_id=f"k{n}") for n in range(20)]
    answers = await asyncio.gather(*keyed)
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.json()["code"] for answer in answers} == {"unavailable"}
    assert all("retry-after" in answer.headers for answer in answers)
    assert "not accepted within 300 ms" in answers[0].json()["error"]
    own_redis.process.send_signal(signal.SIGCONT)
    await until(lambda: node.health.ready)
    retried = await asyncio.gather(*(node.send(f"{n}", client_message_id=f"k{n}") for n in range(20)))
    assert {answer.status_code for answer in retried} == {200}
    await accepted_once(node, retried)
    assert len(await node.entries()) == 20


async def test_redis_killed_and_started_again_under_load(start_node: StartNode, own_redis: EmbeddedRedis) -> None:
    """Requests wait for it; what was accepted before is still there, and nothing is there twice."""
    node = await start_node(own_redis.url, deadline_ms=round(scaled(20_000)))
    assert own_redis.process is not None
    before = await burst(node, "before")
    load = [asyncio.create_task(burst(node, f"load {n}")) for n in range(3)]
    await asyncio.sleep(0)
    own_redis.process.kill()
    own_redis.process.wait()
    late = asyncio.create_task(burst(node, "late"))
    await until(lambda: not node.health.ready)
    assert "Redis: " in node.health.report()["checks"][0]["reason"]
    own_redis.launch()
    await asyncio.to_thread(own_redis.wait_ready)
    answers = before + [answer for some in await asyncio.gather(*load, late) for answer in some]
    assert {answer.status_code for answer in answers} == {200}
    await accepted_once(node, answers)
    assert len(await node.entries()) == 300
    await until(lambda: node.health.ready)


async def test_a_node_starts_without_redis_and_recovers(start_node: StartNode, own_redis: EmbeddedRedis) -> None:
    """It answers 503 with the reason at once instead of not starting, and 200 as soon as Redis is there."""
    assert own_redis.process is not None
    own_redis.stop()
    node = await start_node(own_redis.url)
    assert not node.health.ready
    refused = await node.send()
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    assert "retry-after" in refused.headers
    own_redis.launch()
    await asyncio.to_thread(own_redis.wait_ready)
    await until(lambda: node.health.ready)
    assert (await node.send()).status_code == 200


async def test_an_emptied_redis_is_taken_on_again(start_node: StartNode, own_redis: EmbeddedRedis) -> None:
    """FLUSHALL takes the scripts' data and the agreed number of partitions: the next messages work as the first."""
    node = await start_node(own_redis.url)
    assert (await node.send()).status_code == 200
    await node.redis.flushall()
    await node.redis.script_flush()
    assert (await node.send("again")).status_code == 200
    assert await node.texts() == ["again"]
