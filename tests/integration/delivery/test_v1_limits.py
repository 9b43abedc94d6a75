"""What a v1 client may not do, what it is told then, and how sockets end."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Any

import pytest

from delivery.app import drain
from schemas.problems import PROBLEMS
from tests.integration.delivery.conftest import StartTier
from tests.integration.delivery.harness import Tier
from tests.integration.delivery.v1 import V1, open_v1, v1
from tests.until import scaled, until


@pytest.mark.parametrize(
    ("frame", "code", "sentence"),
    [
        ("nonsense", "bad_request", "the frame is not JSON"),
        ("[]", "bad_request", "the frame is of type list, allowed: a JSON object"),
        ("{}", "bad_request", "the frame has no type"),
        ('{"type":"shout","id":3}', "unknown_type", "type is 'shout', allowed: connect, subscribe"),
        ('{"type":"subscribe","id":3}', "invalid", "ticket_id is missing"),
        ('{"type":"subscribe","ticket_id":"a:b","id":3}', "invalid", "ticket_id is 'a:b', allowed: 1 to 128 of"),
        ('{"type":"subscribe","ticket_id":"7","since":"now","id":3}', "invalid", "since is 'now', allowed: <mill"),
        ('{"type":"subscribe","ticket_id":"7","limit":5,"id":3}', "invalid", "limit is not a field of subscribe"),
        ('{"type":"history","ticket_id":"7","limit":201,"id":3}', "invalid", "limit is 201, allowed: less than"),
        ('{"type":"ack","ticket_id":"8","position":"1-0","id":3}', "not_subscribed", "ticket 8 is not subscribed"),
        ('{"type":"unsubscribe","ticket_id":"8","id":3}', "not_subscribed", "ticket 8 is not subscribed"),
        ('{"type":"typing","ticket_id":"8","id":3}', "not_subscribed", "ticket 8 is not subscribed"),
        ('{"type":"connect","user":"1","id":3}', "conflict", "this socket is connected already"),
        ("[" * 10_000, "bad_request", "the frame is not JSON"),
    ],
)
async def test_a_wrong_frame_is_answered_and_the_socket_lives(tier: Tier, frame: str, code: str, sentence: str) -> None:
    """With what was found and what is allowed; the next request works."""
    client = await v1(tier)
    await client.socket.send(frame)
    error = await client.one("error")
    assert (error["code"], error["temporary"]) == (code, PROBLEMS[code].temporary)
    assert error["message"].startswith(sentence)
    assert error.get("id") == (3 if '"id":3' in frame else None)
    assert (await client.subscribe("7"))["resume"] == "none"


@pytest.mark.parametrize(
    ("frame", "close"),
    [
        ('{"type":"subscribe","ticket_id":"7"}', 4502),
        ('{"type":"shout"}', 4502),
        ("nonsense", 4501),
        ('{"type":"connect","user":"a b"}', 4501),
        ('{"type":"connect"}', 4501),  # auth is off: nobody else says who this is
        (b"\x00\x01", 4501),
    ],
)
async def test_who_does_not_begin_with_connect_is_closed(tier: Tier, frame: str | bytes, close: int) -> None:
    """Stop codes, after an error frame with a sentence."""
    client = await open_v1(tier)
    await client.socket.send(frame)
    assert (await client.ended())[0] == close
    assert client.of("error")[0]["message"]


async def test_a_socket_that_says_nothing_is_closed(start_tier: StartTier) -> None:
    """4502 when the time for connect is over; a connected one may be as quiet as it likes."""
    tier = await start_tier(handshake_seconds=scaled(0.5))
    quiet, connected = await open_v1(tier), await v1(tier)
    assert (await quiet.ended())[0] == 4502
    assert (await connected.subscribe("7"))["resume"] == "none"


@pytest.mark.parametrize(("payload", "close"), [("x" * 1_000_000, 1009), (b"binary", 4501)], ids=["1 MB", "binary"])
async def test_what_no_frame_may_be_ends_the_socket(tier: Tier, payload: Any, close: int) -> None:
    """A megabyte, or binary."""
    client = await v1(tier)
    await client.socket.send(payload)
    assert (await client.ended())[0] == close


async def test_invalid_utf8_ends_the_socket(tier: Tier) -> None:
    """1007, as RFC 6455 wants it."""
    client = await v1(tier)
    await client.socket.send(b"\xff\xfe", text=True)
    assert (await client.ended())[0] == 1007


async def test_too_many_frames_end_the_socket(start_tier: StartTier) -> None:
    """4007, after ten seconds' worth at once."""
    tier = await start_tier(frames_per_second=5)
    client = await v1(tier)
    for _ in range(60):
        await client.say(type="pong")
    assert (await client.ended())[0] == 4007
    assert client.of("error")[-1]["temporary"] is True


async def test_acknowledging_nothing_new_for_ever_ends_the_socket(start_tier: StartTier) -> None:
    """Progress is free; repeats count as frames."""
    tier = await start_tier(frames_per_second=5)
    client = await v1(tier, resume={"7": None})
    await client.one("subscribed")
    for _ in range(100):
        await tier.worker.send("7")
    await client.until_events(100)
    await client.say(type="history", ticket_id="7", limit=1)
    await client.one("history_page")
    for _ in range(100):
        await client.say(type="ack", ticket_id="7", position=client.ids()[0])
    assert (await client.ended())[0] == 4007


async def test_a_socket_has_so_many_tickets_and_no_more(start_tier: StartTier) -> None:
    """An error for each ticket above the limit, and room again after an unsubscribe."""
    tier = await start_tier(max_tickets=3)
    client = await v1(tier, resume={str(n): None for n in range(5)})
    await client.one("subscribed", 3)
    await client.one("error", 2, code="too_many_tickets")
    await client.say(type="unsubscribe", id=8, ticket_id="0")
    assert (await client.one("unsubscribed"))["id"] == 8
    assert (await client.subscribe("4"))["resume"] == "none"


async def test_a_storm_of_subscriptions_is_worked_off_and_leaves_nothing_behind(start_tier: StartTier) -> None:
    """A hundred tickets, left again at once, over and over: no room stays occupied."""
    tier = await start_tier(frames_per_second=1_000, subscribe_at_once=4, linger_seconds=0)
    client = await v1(tier)
    for n in range(300):
        await client.say(type="subscribe", ticket_id=str(n % 100))
        if n % 3 == 0:
            await client.say(type="unsubscribe", ticket_id=str(n % 100))
    await client.say(type="subscribe", id=1, ticket_id="last")
    await client.one("subscribed", id=1)
    await client.socket.close()
    await until(lambda: len(tier.node.rooms) == 0 and tier.node.rooms.seats == 0)


async def test_unsubscribing_ends_the_stream(tier: Tier) -> None:
    """Nothing of the ticket comes after `unsubscribed`; other tickets go on."""
    client = await v1(tier, resume={"7": None, "8": None})
    await client.one("subscribed", 2)
    await client.say(type="unsubscribe", ticket_id="7")
    await client.one("unsubscribed")
    await tier.worker.send("7")
    await tier.worker.send("8")
    await client.until_events(1)
    assert [frame["ticket_id"] for frame in client.events()] == ["8"]


async def test_refresh_is_answered(tier: Tier) -> None:
    """While auth is off any token will do."""
    client = await v1(tier)
    await client.say(type="refresh", id=5, token="x")
    assert (await client.one("refreshed"))["id"] == 5


async def test_a_data_ping_comes_for_clients_that_cannot_see_the_other(start_tier: StartTier) -> None:
    """Browsers hide WebSocket pings from scripts. Whoever answers neither is closed."""
    tier = await start_tier(ping_seconds=1, pong_seconds=0.5)
    client = await v1(tier)
    await client.one("ping", 2)
    assert client.closed is None


async def test_redis_away_is_a_temporary_error(start_tier: StartTier, own_redis: Any) -> None:
    """A subscription that cannot be made now is refused for now; the socket lives, and may try again."""
    tier = await start_tier(redis_url=own_redis.url, open_seconds=0.3)
    client = await v1(tier)
    own_redis.process.send_signal(signal.SIGSTOP)
    await client.say(type="subscribe", id=1, ticket_id="7")
    error = await client.one("error")
    assert (error["id"], error["code"], error["temporary"]) == (1, "unavailable", True)
    assert error["retry_after_ms"] > 0
    own_redis.process.send_signal(signal.SIGCONT)

    async def subscribed() -> bool:
        await client.say(type="subscribe", id=2, ticket_id="7")
        await until(lambda: [f for f in client.got if f.get("id") == 2])
        found = [f for f in client.got if f.get("id") == 2]
        client.got = [f for f in client.got if f.get("id") != 2]
        return found[-1]["type"] == "subscribed"

    await until(subscribed)


async def test_a_client_that_never_reads_slows_nobody(start_tier: StartTier) -> None:
    """Among forty readers; it is closed when its window has been full for too long."""
    tier = await start_tier(ack_seconds=scaled(1), ack_bytes=200_000)
    stuck = await v1(tier, user="stuck", resume={"7": None})
    await stuck.one("subscribed")
    stuck.socket.transport.pause_reading()
    readers: list[V1] = [await v1(tier, user=str(n), resume={"7": None}) for n in range(40)]
    for reader in readers:
        await reader.one("subscribed")
    for _ in range(5):
        await tier.worker.confirm([tier.worker.make("7", "x" * 7_000) for _ in range(20)])
    for reader in readers:
        await reader.until_events(100)
        assert reader.in_order("7")
        assert reader.closed is None
    await until(lambda: len(tier.node.clients) == 40)


async def test_a_node_that_stops_sends_its_clients_elsewhere(start_tier: StartTier) -> None:
    """`reconnect` with a window; who goes by itself has missed nothing; who stays is closed with 4001."""
    old, new = await start_tier(), await start_tier()
    goes, stays = await v1(old, user="goes", resume={"7": None}), await v1(old, user="stays", resume={"7": None})
    for client in (goes, stays):
        await client.one("subscribed")
    first = await old.worker.send("7")
    await goes.until_events(1)
    draining = asyncio.create_task(drain(old.node, scaled(4)))
    hint = await goes.one("reconnect")
    assert 0 < hint["within_ms"] <= scaled(4_000)
    await goes.socket.close()
    missed = await old.worker.send("7")
    again = await v1(new, user="goes", resume={"7": first.message_id})
    await again.until_events(1)
    assert again.ids() == [missed.message_id]
    assert (await stays.ended())[0] == 4001
    await draining
    assert json.loads(json.dumps(stays.of("reconnect")[0])) == hint
