"""Live delivery, catch-up, and what a node does when a wake-up, a log or a connection is lost."""

from __future__ import annotations

import asyncio
import json

import pytest
import redis
from websockets.asyncio.client import connect

from delivery import metrics
from tests.integration.delivery.conftest import StartTier
from tests.integration.delivery.harness import Client, Tier
from tests.until import scaled, until
from ticketwire.embedded.postgres_server import EmbeddedPostgres
from ticketwire.embedded.redis_server import EmbeddedRedis


async def test_a_confirmed_message_reaches_every_socket_of_its_ticket(tier: Tier) -> None:
    """Both forms of the address, the five fields in order, and nobody else's ticket."""
    first, second = await tier.client("?ticket_id=12345"), await tier.client("ws/12345")
    other = await tier.client("?ticket_id=999")
    sent = await tier.worker.send("12345", "Hello, I need assistance with room 101.")
    await first.until(1)
    await second.until(1)
    assert first.got == second.got
    assert list(first.got[0].items()) == [
        ("ticket_id", "12345"),
        ("message_id", sent.message_id),
        ("sender_id", "1"),
        ("message", "Hello, I need assistance with room 101."),
        ("timestamp", sent.timestamp),
    ]
    await tier.worker.send("999", "mine")
    await other.until(1)
    assert other.texts == ["mine"]


async def test_without_since_a_socket_is_live_from_the_moment_it_is_open(tier: Tier) -> None:
    """Nothing from before; everything that is sent after the handshake."""
    await tier.worker.send("7", "before")
    client = await tier.client("?ticket_id=7")
    await tier.worker.send("7", "after")
    await client.until(1)
    assert client.texts == ["after"]


async def test_since_replays_what_was_missed_and_goes_on_live(tier: Tier) -> None:
    """More than a page of backlog, then live messages, each once and in order."""
    sent = [tier.worker.make("7", f"m{n}") for n in range(450)]
    await tier.worker.confirm(sent[:300])
    await tier.worker.confirm(sent[300:])
    client = await tier.client(f"?ticket_id=7&since={sent[9].message_id}")
    live = await tier.worker.send("7", "live")
    await client.until(441)
    assert client.ids == [event.message_id for event in [*sent[10:], live]]
    everything = await tier.client("?ticket_id=7&since=0-0")
    await everything.until(451)
    assert everything.ids == [event.message_id for event in [*sent, live]]


async def test_a_catch_up_among_live_messages_has_no_gap_and_no_repeat(tier: Tier) -> None:
    """Sockets that join with `since` while messages keep coming get each exactly once."""
    clients: list[Client] = []

    async def join() -> None:
        for _ in range(10):
            clients.append(await tier.client("?ticket_id=7&since=0-0"))

    sent = [tier.worker.make("7", str(n)) for n in range(400)]
    await tier.worker.confirm(sent[:200])

    async def send() -> None:
        for event in sent[200:]:
            await tier.worker.confirm([event])

    await asyncio.gather(join(), send())
    for client in clients:
        await client.until(400)
        assert client.ids == [event.message_id for event in sent]


async def test_a_lost_wake_up_shows_in_the_next_message(tier: Tier) -> None:
    """The gap is filled from the log before the message that gave it away."""
    client = await tier.client("?ticket_id=7")
    sent = [await tier.worker.send("7"), await tier.worker.send_unheard("7"), await tier.worker.send("7")]
    await client.until(3)
    assert client.ids == [event.message_id for event in sent]


async def test_a_lost_wake_up_without_a_next_message_costs_seconds_only(start_tier: StartTier) -> None:
    """The periodic comparison with the log's top finds it."""
    tier = await start_tier(position_check_seconds=0.1)
    client = await tier.client("?ticket_id=7")
    sent = await tier.worker.send_unheard("7")
    await client.until(1)
    assert client.ids == [sent.message_id]


async def test_changed_makes_the_log_be_read(tier: Tier) -> None:
    """What a channel does not state the log does: a message under a new id, or a payload nobody can read."""
    client = await tier.client("?ticket_id=7")
    channel = tier.worker.bus.keys.events("7")
    for number, payload in enumerate(('{"type":"changed"}', "not JSON", '{"type":"message"}', "[]", '{"type":7}'), 1):
        await tier.worker.send_unheard("7", f"m{number}")
        await tier.worker.bus.command(channel, "PUBLISH", channel, payload)
        if payload != '{"type":7}':
            await client.until(number)
    await tier.worker.send("7", "last")  # an unknown type is a newer version's: it changes nothing
    await client.until(6)
    assert client.texts == ["m1", "m2", "m3", "m4", "m5", "last"]


async def test_beyond_a_trimmed_log_the_archive_goes_on(tier: Tier) -> None:
    """`since` an entry the log no longer has: the archive fills up to the log's first entry."""
    sent = [tier.worker.make("7", str(n)) for n in range(500)]
    await tier.worker.confirm(sent)
    log = tier.worker.bus.keys.log("7")
    await tier.worker.bus.command(log, "XTRIM", log, "MAXLEN", 10)
    client = await tier.client(f"?ticket_id=7&since={sent[4].message_id}")
    await client.until(495)
    assert client.ids == [event.message_id for event in sent[5:]]


async def test_an_expired_log_is_replayed_from_the_archive(tier: Tier) -> None:
    """A week later the log is gone; a reader from then still gets everything, and live messages after it."""
    sent = [tier.worker.make("7", str(n)) for n in range(5)]
    await tier.worker.confirm(sent)
    log = tier.worker.bus.keys.log("7")
    await tier.worker.bus.command(log, "DEL", log)
    client = await tier.client(f"?ticket_id=7&since={sent[0].message_id}")
    await client.until(4)
    live = await tier.worker.send("7")
    await client.until(5)
    assert client.ids == [event.message_id for event in [*sent[1:], live]]


async def test_what_is_archived_but_not_confirmed_is_not_shown(tier: Tier) -> None:
    """A replay ends at the room's position; the message comes when it is confirmed, once."""
    first, second = await tier.worker.send("7"), tier.worker.make("7")
    await tier.worker.archive_only(second)
    log = tier.worker.bus.keys.log("7")
    await tier.worker.bus.command(log, "XTRIM", log, "MAXLEN", 1)
    client = await tier.client("?ticket_id=7&since=0-0")
    await client.until(1)
    await tier.worker.confirm([second], archived=False)
    await client.until(2)
    assert client.ids == [first.message_id, second.message_id]


async def test_a_room_opened_between_archive_and_confirm_gives_the_message_once(tier: Tier) -> None:
    """The first messages of a ticket were archived, their log still empty: the room began at the archive's newest, took
    their events for repeats, and a reader from `since=0-0` on never got them (seen under load, one run in three).
    """
    worker, partition = tier.worker, tier.worker.bus.keys.partition_of("new")
    stream = worker.bus.keys.ingest(partition)
    events = [worker.make("new", text) for text in ("one", "two")]
    for event in events:
        await worker.bus.command(stream, "XADD", stream, event.message_id, "ticket_id", "new")
        await worker.archive_only(event)
    early = await tier.client("?ticket_id=new&since=0-0")
    live = await tier.client("?ticket_id=new")
    await worker.confirm(events, archived=False)
    last = await worker.send("new", "three")
    for client in (early, live):
        await client.until(3)
        assert client.ids == [*(event.message_id for event in events), last.message_id]


async def test_messages_go_on_after_flushall(tier: Tier) -> None:
    """The log begins anew, its chain at 0-0: what the archive has in between is not lost on anybody."""
    client = await tier.client("?ticket_id=7")
    first = await tier.worker.send("7")
    await client.until(1)
    await tier.worker.bus.command("x", "FLUSHALL")
    unheard = tier.worker.make("7", "confirmed, then lost by Redis with its wake-up")
    await tier.worker.archive_only(unheard)
    last = await tier.worker.send("7")
    await client.until(3)
    assert client.ids == [event.message_id for event in (first, unheard, last)]
    late = await tier.client("?ticket_id=7&since=0-0")
    await late.until(3)
    assert late.ids == client.ids


async def test_a_log_that_lost_its_tail_takes_nobody_back(start_tier: StartTier) -> None:
    """After a failover the log ends before our position: no repeats, no endless repair, and new messages come."""
    tier = await start_tier(position_check_seconds=0.05)
    client = await tier.client("?ticket_id=7")
    sent = [await tier.worker.send("7") for _ in range(3)]
    await client.until(3)
    log = tier.worker.bus.keys.log("7")
    await tier.worker.bus.command(log, "XDEL", log, sent[2].message_id)
    before = repairs()
    await asyncio.sleep(scaled(0.3))  # several checks find the top behind the position
    assert repairs() == before
    new = await tier.worker.send("7")
    await client.until(4)
    assert client.ids == [event.message_id for event in [*sent, new]]


def repairs() -> float:
    return sum(
        sample.value
        for metric in metrics.REPAIRS.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    )


async def test_a_killed_subscription_comes_back_and_misses_nothing(tier: Tier, redis_url: str) -> None:
    """CLIENT KILL TYPE pubsub, and messages confirmed before it is back."""
    clients = [await tier.client(f"?ticket_id={ticket}") for ticket in range(20)]
    with redis.Redis.from_url(redis_url) as admin:
        for round_ in range(3):
            assert admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub") >= 1
            for ticket in range(20):
                await tier.worker.send(str(ticket), str(round_))
            for client in clients:
                await client.until(round_ + 1)
    assert all(client.texts == ["0", "1", "2"] for client in clients)
    assert tier.node.subscriber.reconnects == 3


async def test_a_silent_subscription_is_found_by_the_canary(start_tier: StartTier) -> None:
    """The connection lives but brings nothing any more: not ready, made anew, repaired, ready."""
    tier = await start_tier(canary_seconds=0.05, canary_lost_seconds=0.3)
    client = await tier.client("?ticket_id=7")
    link = next(iter(tier.node.subscriber._links.values()))
    assert link._transport is not None
    link._transport.pause_reading()
    await until(lambda: not tier.health.ready)
    sent = await tier.worker.send("7")
    await until(lambda: tier.health.ready)
    await client.until(1)
    assert client.ids == [sent.message_id]


async def test_a_subscription_that_redis_ended_by_itself_is_made_anew(tier: Tier) -> None:
    """An `unsubscribe` nobody asked for: everything is subscribed again and repaired."""
    client = await tier.client("?ticket_id=7")
    link = next(iter(tier.node.subscriber._links.values()))
    assert link._transport is not None
    link._transport.write(b"*1\r\n$11\r\nUNSUBSCRIBE\r\n")
    await until(lambda: tier.node.subscriber.reconnects == 1)
    sent = await tier.worker.send("7")
    await client.until(1)
    assert client.ids == [sent.message_id]


async def test_a_position_in_the_future_goes_on_live(tier: Tier) -> None:
    """A plain client cannot be told `reset`: it gets what comes after the room's position, and it is counted."""
    sent = await tier.worker.send("7")
    client = await tier.client("?ticket_id=7&since=99999999999999-0")
    live = await tier.worker.send("7")
    await client.until(1)
    assert client.ids == [live.message_id]
    assert sent.message_id not in client.ids


async def test_rooms_are_unsubscribed_when_the_last_socket_has_left(start_tier: StartTier, redis_url: str) -> None:
    """After a while: people reload pages, so not at once."""
    tier = await start_tier(linger_seconds=0.2)
    with redis.Redis.from_url(redis_url, decode_responses=True) as admin:
        for _ in range(2):
            async with connect(f"{tier.url}/?ticket_id=7"):
                assert admin.pubsub_numsub("channel:chat:7:events") == [("channel:chat:7:events", 1)]
            async with connect(f"{tier.url}/?ticket_id=7"):
                assert len(tier.node.rooms) == 1
            await until(lambda: admin.pubsub_numsub("channel:chat:7:events") == [("channel:chat:7:events", 0)])
            assert len(tier.node.rooms) == 0


async def test_every_tickets_messages_only_where_that_is_allowed(start_tier: StartTier) -> None:
    """`ticketwire dev` lets a socket name no ticket: it gets all of them and filters for itself."""
    tier = await start_tier(shared={"allow_everything_feed": True})
    first, second = await tier.client(), await tier.client()
    sent = [await tier.worker.send(ticket) for ticket in ("1", "2", "1")]
    for client in (first, second):
        await client.until(3)
        assert client.ids == [event.message_id for event in sent]
        assert [message["ticket_id"] for message in client.got] == ["1", "2", "1"]


async def test_a_node_recovers_from_a_redis_that_was_killed(start_tier: StartTier, own_redis: EmbeddedRedis) -> None:
    """Open sockets stay; what is confirmed once Redis is back arrives on them, with what was before."""
    tier = await start_tier(redis_url=own_redis.url, canary_seconds=0.1, canary_lost_seconds=0.5)
    client = await tier.client("?ticket_id=7")
    sent = [await tier.worker.send("7")]
    await client.until(1)
    assert own_redis.process is not None
    own_redis.process.kill()
    own_redis.process.wait()
    await until(lambda: not tier.health.ready)
    refused = await _refusal(f"{tier.url}/?ticket_id=8")
    assert refused[0] == 503
    own_redis.launch()
    await asyncio.to_thread(own_redis.wait_ready)
    sent.append(await tier.worker.send("7"))
    await client.until(2)
    await until(lambda: tier.health.ready)
    assert client.ids == [event.message_id for event in sent]


async def test_a_node_starts_before_its_redis(own_redis: EmbeddedRedis, postgres_url: str) -> None:
    """It listens, refuses with 503 and Retry-After, says why, and opens by itself."""
    from tests.integration.delivery.harness import running_tier

    own_redis.stop()
    async with running_tier(own_redis.url, postgres_url) as tier:
        status, headers, body = await _refusal(f"{tier.url}/?ticket_id=8")
        assert (status, headers["retry-after"]) == (503, "1")
        assert "Redis" in json.loads(body)["error"]
        await until(lambda: any("Redis" in check["reason"] for check in tier.health.report()["checks"]))
        own_redis.launch()
        await asyncio.to_thread(own_redis.wait_ready)
        await until(lambda: tier.health.ready)
        client = await tier.client("?ticket_id=8")
        await tier.worker.send("8")
        await client.until(1)


async def test_live_delivery_goes_on_without_postgresql(start_tier: StartTier, own_postgres: EmbeddedPostgres) -> None:
    """A stopped PostgreSQL stops history and long catch-ups, which wait for it, and nobody else."""
    from ticketwire.archive.migrate import upgrade

    await asyncio.to_thread(upgrade, own_postgres.url)
    tier = await start_tier(postgres_url=own_postgres.url)
    sent = [tier.worker.make("7", str(n)) for n in range(20)]
    await tier.worker.confirm(sent)
    log = tier.worker.bus.keys.log("7")
    await tier.worker.bus.command(log, "XTRIM", log, "MAXLEN", 5)
    live = await tier.client("?ticket_id=7")
    await asyncio.to_thread(own_postgres.stop)
    waiting = await tier.client("?ticket_id=7&since=0-0")
    new = tier.worker.make("7", "new")
    await tier.worker.confirm([new], archived=False)  # archived it is, by a worker whose PostgreSQL is well
    await live.until(1)
    assert waiting.ids == []
    await asyncio.to_thread(own_postgres.start)
    await waiting.until(21)
    assert waiting.ids == [event.message_id for event in [*sent, new]]


async def _refusal(url: str) -> tuple[int, dict[str, str], bytes]:
    from websockets.exceptions import InvalidStatus

    with pytest.raises(InvalidStatus) as refused:
        async with connect(url):
            pass
    response = refused.value.response
    return response.status_code, {k.lower(): v for k, v in response.headers.raw_items()}, bytes(response.body or b"")


async def test_one_broken_log_harms_no_other_ticket(start_tier: StartTier) -> None:
    """A key of another type where a log should be: that ticket is refused, all others live and are checked."""
    tier = await start_tier(position_check_seconds=0.1)
    bus = tier.worker.bus
    clients = [await tier.client(f"?ticket_id={ticket}") for ticket in range(5)]
    broken = await tier.client("?ticket_id=broken")
    for ticket in ("broken", "broken2"):
        await bus.command(bus.keys.log(ticket), "SET", bus.keys.log(ticket), "not a stream")
    assert (await _refusal(f"{tier.url}/?ticket_id=broken2"))[0] == 503
    channel = bus.keys.events("broken")
    await bus.command(channel, "PUBLISH", channel, '{"type":"changed"}')  # its repair cannot succeed
    for ticket, client in enumerate(clients):
        await tier.worker.send_unheard(str(ticket))
        await client.until(1)
    await bus.command(bus.keys.log("broken"), "DEL", bus.keys.log("broken"))
    await tier.worker.send("broken")
    await broken.until(1)
