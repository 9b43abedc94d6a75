"""`fsync` and `replica` are waited for, and a failed wait is never a silent success."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from schemas.entries import encode_submitted
from schemas.events import Submitted
from tests.integration.ingest.conftest import StartNode
from tests.integration.ingest.harness import KEYS, settings_of
from tests.servers import RedisKind, RedisServers, binary_of
from tests.until import until
from ticketwire.bus.accept import Acceptor, Offer
from ticketwire.bus.bus import open_bus
from ticketwire.embedded.redis_server import EmbeddedRedis
from ticketwire.errors import SettingsError, Unavailable


@pytest.fixture
async def replica(own_redis: EmbeddedRedis, own_folder: Path) -> AsyncIterator[EmbeddedRedis]:
    """A replica of `own_redis`, in step with it."""
    config = [f"replicaof 127.0.0.1 {own_redis.port}"]
    async with Redis.from_url(own_redis.url, decode_responses=True) as master:
        await master.config_set("repl-diskless-sync-delay", 0)
        with EmbeddedRedis(own_folder / "replica", binary=binary_of(RedisKind.V8_2), config=config) as server:

            async def in_step() -> bool:
                info = await master.info("replication")
                return info["connected_slaves"] == 1 and info["slave0"]["state"] == "online"

            await until(in_step, timeout_s=30)
            yield server


def stop(server: EmbeddedRedis) -> None:
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)


def go_on(server: EmbeddedRedis) -> None:
    assert server.process is not None
    server.process.send_signal(signal.SIGCONT)


async def test_replica_waits_for_the_replica(
    start_node: StartNode, own_redis: EmbeddedRedis, replica: EmbeddedRedis
) -> None:
    """After 200 the replica has the message: it could be promoted this instant."""
    node = await start_node(own_redis.url, durability="replica")
    async with Redis.from_url(replica.url, decode_responses=True) as copy:
        for n in range(20):
            message_id = (await node.send(f"{n}")).json()["message_id"]
            assert (await copy.xrange(KEYS.ingest(KEYS.partition_of("12345"))))[-1][0] == message_id


async def test_a_failed_wait_is_told_and_can_be_repeated(
    start_node: StartNode, own_redis: EmbeddedRedis, replica: EmbeddedRedis
) -> None:
    """503 `not_durable` says that it may be stored; a retry under the key waits again, then gets the same id."""
    node = await start_node(own_redis.url, durability="replica", durability_timeout_ms=100)
    assert (await node.send("before")).status_code == 200
    stop(replica)
    for _ in range(2):  # the second time the message is found by its key; it is still not on the replica
        refused = await node.send(client_message_id="k1")
        assert (refused.status_code, refused.json()["code"]) == (503, "not_durable")
        assert "no replica confirmed it within 100 ms" in refused.json()["error"]
        assert "may be stored" in refused.json()["error"]
        assert "retry-after" in refused.headers
    go_on(replica)
    answer = await node.send(client_message_id="k1")
    assert answer.status_code == 200
    assert await node.texts() == ["before", "Hello"]


async def test_a_repeated_call_waits_again_on_its_new_connection(
    own_redis: EmbeddedRedis, replica: EmbeddedRedis
) -> None:
    """WAIT counts replicas that have the connection's own last write.

    A repeat that only reads the batch key, on a connection that never wrote, is told at once that all replicas
    have everything: a lost reply would turn `replica` into `redis`, silently.
    """
    settings = settings_of(own_redis.url, durability="replica", durability_timeout_ms=100).shared
    fields = encode_submitted(Submitted(ticket_id="1", sender_id="1", message="x"))
    async with open_bus(settings) as bus:
        await bus.check()
        acceptor = Acceptor(bus, settings, retry_ms=5_000, remember_ms=1_000)
        stop(replica)
        for _ in range(3):
            with pytest.raises(Unavailable) as caught:
                await acceptor.accept("token", [Offer(0, "", "", fields)])
            assert caught.value.code == "not_durable"
            for node in await bus.topology.all_nodes():
                await node.drop_idle()
        go_on(replica)
        (message_id,) = await acceptor.accept("token", [Offer(0, "", "", fields)])
        stream = KEYS.ingest(0)
        assert [entry_id for entry_id, _ in await bus.command(stream, "XRANGE", stream, "-", "+")] == [message_id]


async def test_without_a_replica_nothing_is_durable(start_node: StartNode, own_redis: EmbeddedRedis) -> None:
    """`replica` with no replica is an error to every sender, not a downgrade."""
    node = await start_node(own_redis.url, durability="replica", durability_timeout_ms=50)
    answers = await asyncio.gather(*(node.send(f"{n}") for n in range(5)))
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(503, "not_durable")}


async def test_fsync_waits_for_the_disk(start_node: StartNode, own_redis: EmbeddedRedis) -> None:
    """Many at once share the wait; the server's own figures say that everything is on its disk."""
    node = await start_node(own_redis.url, durability="fsync")
    answers = await asyncio.gather(*(node.send(f"{n}", ticket=f"t{n}") for n in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(await node.entries()) == 50


async def test_an_append_only_file_switched_off_meanwhile_is_noticed(
    start_node: StartNode, own_redis: EmbeddedRedis
) -> None:
    """WAITAOF then answers with an error, which must not count as success."""
    node = await start_node(own_redis.url, durability="fsync")
    await node.redis.config_set("appendonly", "no")
    answer = await node.send()
    assert (answer.status_code, answer.json()["code"]) == (503, "not_durable")
    assert "appendonly" in answer.json()["error"]


async def test_fsync_without_an_append_only_file_stops_the_start(
    start_node: StartNode, own_redis: EmbeddedRedis
) -> None:
    """One line that says what to set."""
    async with Redis.from_url(own_redis.url) as client:
        await client.config_set("appendonly", "no")
    with pytest.raises(BaseExceptionGroup) as caught:
        await start_node(own_redis.url, durability="fsync")
    assert "TICKETWIRE_DURABILITY is 'fsync'" in _settings_error(caught.value).detail


async def test_fsync_on_an_old_redis_stops_the_start(start_node: StartNode, own_folder: Path) -> None:
    """WAITAOF came with 7.2; nothing else tells that the disk has it."""
    with EmbeddedRedis(own_folder / "old", binary=binary_of(RedisKind.V6_2)) as old:
        with pytest.raises(BaseExceptionGroup) as caught:
            await start_node(old.url, durability="fsync")
        assert "needs Redis 7.2 or later, found 6.2" in _settings_error(caught.value).detail


def _settings_error(group: BaseException) -> SettingsError:
    while isinstance(group, BaseExceptionGroup):
        (group,) = group.exceptions
    assert isinstance(group, SettingsError)
    return group


async def test_on_a_cluster_every_partition_waits_for_itself(
    start_node: StartNode, redis_cluster: RedisServers
) -> None:
    """`fsync` on three masters: each call goes to its slot's owner, and so does its wait."""
    node = await start_node(redis_cluster.url, data_url=redis_cluster.nodes[0].url, durability="fsync")
    answers = await asyncio.gather(*(node.send(f"{n}", ticket=f"t{n}") for n in range(40)))
    assert {answer.status_code for answer in answers} == {200}
