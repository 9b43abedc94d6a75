"""What Redis loses after ingest answered is counted and named, once, and nothing else is."""

from __future__ import annotations

import logging

import pytest

from ingest import metrics
from ingest.witness import Witness
from schemas.message_id import MessageId
from tests.integration.ingest.conftest import StartNode
from tests.integration.ingest.harness import KEYS, Node, running_node, settings_of
from tests.until import until
from ticketwire.archive.messages import open_archive
from ticketwire.archive.rows import ArchiveRow
from ticketwire.bus.accept import Acceptor, Offer
from ticketwire.bus.bus import open_bus
from ticketwire.bus.partition import dead_letter
from ticketwire.embedded.redis_server import EmbeddedRedis
from ticketwire.errors import Rejected

QUICK = {"lease_ttl_ms": 200}  # the wait for workers that may still archive what they read


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "ingest.witness")


def lost() -> float:
    return metrics.LOST._value.get()


def told(caplog: pytest.LogCaptureFixture, event: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.message == event]


async def send(node: Node, count: int) -> list[str]:
    return [(await node.send(f"m{n}")).json()["message_id"] for n in range(count)]


async def test_a_flushall_loses_what_was_neither_archived_nor_buried_and_it_is_named(
    start_node: StartNode, redis_url: str, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Of five, one is archived, one buried and then sent again after Redis was emptied; three are nowhere."""
    node = await start_node(redis_url, database_url=postgres_url, **QUICK)
    before = lost()
    ids = await send(node, 5)
    partition = KEYS.partition_of("12345")
    at = MessageId.parse(ids[0])
    async with open_archive(postgres_url) as archive:
        await archive.store([ArchiveRow("12345", at.ms, at.seq, partition, "1", "m0", "held", 1)])
    await node.redis.flushall()
    entry = ["ticket_id", "12345", "sender_id", "1", "message", "m1"]
    error = Rejected("poison", "x")
    letter = dead_letter(
        ids[1], entry, error, stage="worker", attempts=5, first_at_ms=at.ms, last_at_ms=at.ms, worker="w"
    )
    # Between the flush and the look, as a worker that held it would.
    await node.redis.xadd(KEYS.dead(partition), dict(zip(letter[::2], letter[1::2], strict=True)), id=ids[1])
    await until(lambda: lost() == before + 3)
    (record,) = told(caplog, "Redis lost accepted messages")
    assert record.messages == 3  # type: ignore[attr-defined]
    assert record.some == [f"12345 {one}" for one in ids[2:]]  # type: ignore[attr-defined]


async def test_a_loss_is_counted_once_and_a_second_one_by_itself(
    start_node: StartNode, redis_url: str, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    node = await start_node(redis_url, database_url=postgres_url, **QUICK)
    before = lost()
    await send(node, 2)
    await node.redis.flushall()
    await until(lambda: lost() == before + 2)
    await send(node, 1)
    await node.redis.flushall()
    await until(lambda: len(told(caplog, "Redis lost accepted messages")) == 2)
    assert lost() == before + 3


async def test_a_restart_that_keeps_everything_is_no_loss(
    start_node: StartNode, own_redis: EmbeddedRedis, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They are looked for and found; the emptying that follows counts them, so they were still remembered."""
    node = await start_node(own_redis.url, database_url=postgres_url, **QUICK)
    before = lost()
    await send(node, 4)
    assert own_redis.process is not None
    own_redis.process.kill()
    own_redis.process.wait()
    own_redis.launch()
    own_redis.wait_ready()
    await until(lambda: told(caplog, "Redis was restarted, replaced or emptied"))
    await send(node, 1)
    await node.redis.flushall()
    await until(lambda: told(caplog, "Redis lost accepted messages"))
    assert lost() == before + 5
    assert len(told(caplog, "Redis was restarted, replaced or emptied")) == 2


async def test_the_search_waits_for_postgresql(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is called lost because nobody could say; a node that stops meanwhile says what it leaves undone."""
    before = lost()
    async with running_node(redis_url, archive_timeout_ms=100, **QUICK) as node:
        await send(node, 2)
        await node.redis.flushall()
        await until(lambda: told(caplog, "Redis was restarted, replaced or emptied"))
    (record,) = told(caplog, "not looked for all answered messages")
    assert record.left == 2  # type: ignore[attr-defined]
    assert lost() == before


async def test_only_so_many_answers_are_remembered(start_node: StartNode, redis_url: str, postgres_url: str) -> None:
    node = await start_node(redis_url, database_url=postgres_url, remember_answers=3, **QUICK)
    before = lost()
    await send(node, 5)
    await node.redis.flushall()
    await until(lambda: lost() == before + 3)


async def test_a_loss_before_the_first_look_is_found_by_it(
    redis_url: str, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis was out of reach when the node started, took messages, and lost them before anybody had looked at it."""
    shared = settings_of(redis_url, **QUICK).shared
    before = lost()
    async with open_bus(shared) as bus, open_archive(postgres_url) as archive:
        witness = Witness(bus, archive, shared, size=10, every_s=60)
        accept = witness.remembering(Acceptor(bus, shared, retry_ms=1_000, remember_ms=1_000).accept)
        (answer,) = await accept("t", [Offer(0, "", "", ["v", "1", "ticket_id", "12345", "message", "m"])])
        await bus.command("", "FLUSHALL")
        await witness.look()
        assert lost() == before + 1
        (record,) = told(caplog, "Redis lost accepted messages")
        assert record.some == [f"12345 {answer}"]  # type: ignore[attr-defined]
        await witness.look()
        assert lost() == before + 1
