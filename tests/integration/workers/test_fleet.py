"""Workers on a real Redis and PostgreSQL: every accepted message gets its one fate, in order, whatever happens."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence

import pytest

from schemas.message_id import MessageId
from tests.pipeline import (
    backlog,
    check_tickets,
    drained,
    flood,
    flood_one,
    letters,
    make_settings,
    open_all,
    raw,
    shown,
    submit,
    working,
)
from tests.until import scaled, until
from ticketwire.archive.messages import Archive
from ticketwire.bus.bus import Bus
from ticketwire.embedded.postgres_server import EmbeddedPostgres
from ticketwire.embedded.redis_server import EmbeddedRedis
from workers import metrics
from workers.app import make_fleet
from workers.fleet import Fleet
from workers.settings import WorkerSettings

Worker = Callable[..., Awaitable[tuple[Fleet, "asyncio.Task[None]"]]]


async def test_messages_come_out_in_the_order_of_acceptance_and_are_archived(
    core: tuple[Bus, Archive], settings: WorkerSettings
) -> None:
    async with working(core, settings):
        sent = await flood(core[0], tickets=10, each=20)
        await drained(core[0])
    await check_tickets(core, sent)
    assert await letters(core[0]) == []


async def test_two_workers_share_the_partitions_and_a_leaving_one_hands_over_at_once(
    core: tuple[Bus, Archive], settings: WorkerSettings
) -> None:
    async with working(core, settings) as stays:
        await until(lambda: stays.owned == 4)
        async with working(core, settings) as leaves:
            await until(lambda: (stays.owned, leaves.owned) == (2, 2))
            sent = await flood(core[0], tickets=10, each=10)
        started = time.monotonic()
        await until(lambda: stays.owned == 4)
        assert time.monotonic() - started < scaled(0.9), "not by waiting for the lease to run out"
        await drained(core[0])
    await check_tickets(core, sent)


async def test_a_killed_workers_batch_is_taken_over_within_the_lease_and_half_a_second(
    core: tuple[Bus, Archive], settings: WorkerSettings
) -> None:
    """Cancelled without a word, as a killed process would be, while its archive call is under way."""
    victim = make_fleet(*core, settings)
    task = asyncio.create_task(victim.run())
    await until(lambda: victim.owned == 4)
    async with working(core, settings) as heir:
        await until(lambda: heir.owned == 2)
        sent = await flood(core[0], tickets=10, each=5)
        victim._leave = asyncio.sleep  # type: ignore[assignment]  # a killed process says no goodbye
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        killed = time.monotonic()
        for ticket, messages in (await flood(core[0], tickets=10, each=5)).items():
            sent[ticket] += messages
        await until(lambda: heir.owned == 4)
        assert time.monotonic() - killed < scaled(1.5)
        await drained(core[0])
    await check_tickets(core, sent)


@pytest.mark.parametrize(
    ("fields", "reason", "told"),
    [
        (["ticket_id", "T1", "sender_id", "1"], "undecodable", "message is missing"),
        (["ticket_id", "a:b", "sender_id", "1", "message", "x"], "undecodable", "ticket_id has 'a:b'"),
        (["v", "9", "ticket_id", "T1", "sender_id", "1", "message", "x"], "unknown_version", "version '9'"),
        (["ticket_id", "T1", "sender_id", "1", "message", b"\xff"], "undecodable", "invalid UTF-8"),
        (
            ["ticket_id", "T1", "sender_id", "1", "message", "x", "timestamp", "99999999999999999"],
            "archive_refused",
            "PostgreSQL",
        ),
    ],
)
async def test_an_entry_refused_for_good_is_buried_with_its_reason_and_takes_no_other_along(
    core: tuple[Bus, Archive], settings: WorkerSettings, fields: Sequence[str | bytes], reason: str, told: str
) -> None:
    before = [(await submit(core[0], "T1", f"b{n}"), f"b{n}") for n in range(3)]
    entry_id = await raw(core[0], "T1", *fields)
    after = [(await submit(core[0], "T1", f"a{n}"), f"a{n}") for n in range(3)]
    async with working(core, settings):
        await drained(core[0])
    await check_tickets(core, {"T1": before + after})
    (letter,) = await letters(core[0])
    assert (letter["entry_id"], letter["reason"]) == (entry_id, reason)
    assert told in letter["error"]
    original = [f.encode() if isinstance(f, str) else f for f in fields]
    assert [f.encode("utf-8", "surrogateescape") for f in json.loads(letter["fields"])] == original


async def test_a_second_message_with_the_same_client_message_id_is_buried_as_a_duplicate(
    core: tuple[Bus, Archive], settings: WorkerSettings
) -> None:
    """Ingest remembers a key for a day; the archive for ever."""
    first = await submit(core[0], "T1", "once", client_message_id="k1")
    second = await submit(core[0], "T1", "once", client_message_id="k1")
    async with working(core, settings):
        await drained(core[0])
    await check_tickets(core, {"T1": [(first, "once")]})
    (letter,) = await letters(core[0])
    assert (letter["entry_id"], letter["reason"]) == (second, "duplicate")
    assert first in letter["error"]


async def test_an_entry_whose_workers_died_too_often_is_buried_and_its_neighbours_are_not(
    core: tuple[Bus, Archive], settings: WorkerSettings
) -> None:
    ids = [await submit(core[0], "T1", f"m{n}") for n in range(3)]
    stream = core[0].keys.ingest(core[0].keys.partition_of("T1"))
    await core[0].command(stream, "XGROUP", "CREATE", stream, "workers", "0")
    await core[0].command(stream, "XREADGROUP", "GROUP", "workers", "owner", "STREAMS", stream, ">")
    await core[0].command(
        stream, "XCLAIM", stream, "workers", "owner", 0, ids[1], "RETRYCOUNT", settings.max_deliveries, "JUSTID"
    )
    async with working(core, settings):
        await drained(core[0])
    assert [entry_id for entry_id, _ in await shown(core[0], "T1")] == [ids[0], ids[2]]
    (letter,) = await letters(core[0])
    assert (letter["entry_id"], letter["reason"]) == (ids[1], "poison")


async def test_an_archived_message_is_shown_even_if_its_workers_died_too_often(
    core: tuple[Bus, Archive], settings: WorkerSettings
) -> None:
    """They died after archiving it: burying it now would give it two fates."""
    entry_id = await submit(core[0], "T1", "m")
    async with working(core, settings):
        await drained(core[0])
    stream, key = core[0].keys.ingest(core[0].keys.partition_of("T1")), core[0].keys.log("T1")
    await core[0].command(key, "DEL", key)
    await core[0].command(stream, "DEL", stream)
    await core[0].command(stream, "XADD", stream, entry_id, "ticket_id", "T1", "sender_id", "1", "message", "m")
    await core[0].command(stream, "XGROUP", "CREATE", stream, "workers", "0")
    await core[0].command(stream, "XREADGROUP", "GROUP", "workers", "owner", "STREAMS", stream, ">")
    await core[0].command(stream, "XCLAIM", stream, "workers", "owner", 0, entry_id, "RETRYCOUNT", 9, "JUSTID")
    async with working(core, settings):
        await drained(core[0])
    await check_tickets(core, {"T1": [(entry_id, "m")]})
    assert await letters(core[0]) == []


async def test_after_flushall_messages_go_on_and_the_archive_keeps_what_redis_lost(
    core: tuple[Bus, Archive], settings: WorkerSettings
) -> None:
    async with working(core, settings) as fleet:
        await until(lambda: fleet.owned == 4)
        before = await flood(core[0], tickets=4, each=3)
        await drained(core[0])
        await core[0].command("x", "FLUSHALL")
        flushed = time.monotonic()
        after = await flood(core[0], tickets=4, each=3)
        await drained(core[0])
        assert time.monotonic() - flushed < scaled(2.5)
    await check_tickets(core, {ticket: before[ticket] + after[ticket] for ticket in before})


async def test_what_a_lagging_replica_had_not_heard_of_is_confirmed_again_in_its_place(
    core: tuple[Bus, Archive], settings: WorkerSettings
) -> None:
    """A promoted replica holds a prefix: here the third and fourth message are gone from log and watermark, the
    second lies on the stream again, unread, and a fifth is accepted before a worker looks.
    """
    bus, key = core[0], core[0].keys.log("T1")
    lease, stream = bus.keys.lease(bus.keys.partition_of("T1")), bus.keys.ingest(bus.keys.partition_of("T1"))
    async with working(core, settings):
        sent = await flood_one(bus, "T1", 4)
        await drained(bus)
    lost = metrics.REDIS_LOST._value.get()
    await bus.command(key, "DEL", key)
    await bus.command(stream, "DEL", stream)
    await bus.command(lease, "HSET", lease, "done", sent[0][0])
    for target, (entry_id, body) in ((key, sent[0]), (stream, sent[1])):
        who = ["ticket_id", "T1"] if target == stream else ["timestamp", "1"]
        await bus.command(target, "XADD", target, entry_id, "sender_id", "1", "message", body, *who)
    sent += await flood_one(bus, "T1", 1)
    async with working(core, settings):
        await drained(bus)
        await until(lambda: metrics.REDIS_LOST._value.get() == lost + 2)
        await check_tickets(core, {"T1": sent})
    newest = await bus.command(stream, "XINFO", "STREAM", stream)
    assert MessageId.parse(newest[newest.index("last-generated-id") + 1]) >= MessageId.parse(sent[-1][0])


async def test_a_tail_lost_under_a_working_owner_is_confirmed_again_before_anything_new(
    core: tuple[Bus, Archive], settings: WorkerSettings
) -> None:
    """A lagging replica was promoted, and its copy of the lease was ours too: the next confirm went through and moved
    the watermark past the lost messages, so that nobody missed them. They stayed in the archive, but no log had them.
    """
    bus, key = core[0], core[0].keys.log("T1")
    lease, stream = bus.keys.lease(bus.keys.partition_of("T1")), bus.keys.ingest(bus.keys.partition_of("T1"))
    async with working(core, settings):
        sent = await flood_one(bus, "T1", 4)
        await drained(bus)
        await bus.call(
            stream,
            ("MULTI",),
            ("DEL", key),
            ("XADD", key, sent[0][0], "sender_id", "1", "message", sent[0][1], "timestamp", "1"),
            ("HSET", lease, "done", sent[0][0]),
            ("EXEC",),
        )
        for _ in range(3):
            sent += await flood_one(bus, "T1", 1)
            await drained(bus)
        await check_tickets(core, {"T1": sent})


async def test_nothing_is_lost_or_doubled_while_postgres_is_stopped(
    redis_url: str, own_postgres: EmbeddedPostgres
) -> None:
    from ticketwire.archive.migrate import upgrade

    await asyncio.to_thread(upgrade, own_postgres.url)
    settings = make_settings(redis_url, own_postgres.url, archive_timeout_ms=1_000)
    async with open_all(settings) as core, working(core, settings) as fleet:
        sent = await flood(core[0], tickets=4, each=3)
        await drained(core[0])
        own_postgres.stop()
        for ticket, messages in (await flood(core[0], tickets=4, each=3)).items():
            sent[ticket] += messages
        await until(lambda: fleet.outages())
        assert await backlog(core[0]) == 12, "nothing is acknowledged before it is archived"
        own_postgres.start()
        await drained(core[0])
        await check_tickets(core, sent)
        assert await letters(core[0]) == []


async def test_a_killed_and_restarted_redis_loses_and_doubles_nothing(
    own_redis: EmbeddedRedis, postgres_url: str
) -> None:
    settings = make_settings(own_redis.url, postgres_url)
    async with open_all(settings) as core, working(core, settings) as fleet:
        await until(lambda: fleet.owned == 4)
        sent = await flood(core[0], tickets=10, each=30)
        own_redis.process.kill()
        own_redis.process.wait()
        own_redis.launch()
        await asyncio.to_thread(own_redis.wait_ready)
        for ticket, messages in (await flood(core[0], tickets=10, each=3)).items():
            sent[ticket] += messages
        await drained(core[0])
        await check_tickets(core, sent)
        assert await letters(core[0]) == []


async def test_a_repeat_of_an_archived_message_shows_the_verdict_that_was_stored_first(
    core: tuple[Bus, Archive], settings: WorkerSettings
) -> None:
    """A stale owner's row came first; what the archive holds is what may be shown."""
    from ticketwire.archive.rows import ArchiveRow

    entry_id = await submit(core[0], "T1", "my card is 4111")
    ms, seq = MessageId.parse(entry_id)
    await core[1].store(
        [ArchiveRow("T1", ms, seq, core[0].keys.partition_of("T1"), "1", "my card is [card]", "masked", ms // 1000)]
    )
    async with working(core, settings):
        await drained(core[0])
    assert await shown(core[0], "T1") == [(entry_id, "my card is [card]")]
