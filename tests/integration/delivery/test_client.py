"""`ticketwire.client` against real nodes and a real ingest tier."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from delivery.app import drain
from tests.integration.delivery.conftest import StartTier
from tests.integration.delivery.harness import Tier
from tests.until import scaled, until
from ticketwire.client.client import Client
from ticketwire.client.subscription import Event, Stopped, Subscription


async def read(subscription: Subscription, found: list[Event]) -> None:
    async for event in subscription:
        found.append(event)


def texts(found: list[Event]) -> list[str]:
    return [event.message for event in found if event.kind == "message"]


async def test_a_loop_over_a_ticket_gets_all_of_it(tier: Tier) -> None:
    """From the beginning, then live; what the loop has done with is acknowledged."""
    sent = [await tier.worker.send("7", f"m{n}") for n in range(3)]
    async with Client(tier.http, user="anna") as client:
        found: list[Event] = []
        async for event in client.subscribe("7", since="0-0"):
            found.append(event)
            if event.kind == "caught_up":
                await tier.worker.send("7", "live")
            if event.message == "live":
                break
        assert texts(found) == ["m0", "m1", "m2", "live"]
        assert [event.kind for event in found].index("caught_up") == 3
        assert found[0].position == sent[0].message_id
        seat = next(iter(tier.node.clients.services.clients))._seats["7"]  # type: ignore[attr-defined]
        await until(lambda: seat.acks.acked == sent[2].position)  # `live` is in hand: not done with


async def test_a_client_survives_the_end_of_its_node(start_tier: StartTier) -> None:
    """Its connection is cut again and again while messages keep coming: each arrives once, in order."""
    tier = await start_tier(marks_seconds=0.05)
    async with Client(tier.http, user="anna") as client, AsyncExitStack() as stack:
        found: list[Event] = []
        task = asyncio.create_task(read(client.subscribe("7"), found))
        stack.callback(task.cancel)
        await client.connected.wait()
        await until(lambda: tier.node.rooms.seats == 1)
        for n in range(60):
            await tier.worker.send("7", str(n))
            if n % 20 == 10:
                await client.connected.wait()
                assert client._socket is not None
                client._socket.transport.abort()
        await until(lambda: len(texts(found)) == 60, timeout_s=30)
        assert texts(found) == [str(n) for n in range(60)]
        assert client.connections >= 4


async def test_a_device_repeats_what_was_not_done_with(start_tier: StartTier) -> None:
    """A crash in the middle of an event: the next run gets that event again, and none before it."""
    tier = await start_tier(marks_seconds=0.05)
    async with Client(tier.http, user="bot", device="worker-1") as client:
        subscription = client.subscribe("7")
        await client.connected.wait()
        await until(lambda: tier.node.rooms.seats == 1)
        for text in ("one", "two", "three"):
            await tier.worker.send("7", text)
        assert (await anext(subscription)).message == "one"
        assert (await anext(subscription)).message == "two"  # and here it ends, with `two` in hand
    await until(lambda: tier.redis.hget("chat:7:cursors", "bot:worker-1"))
    async with Client(tier.http, user="bot", device="worker-1") as client:
        subscription = client.subscribe("7")
        assert [(await anext(subscription)).message for _ in range(2)] == ["two", "three"]


async def test_a_window_smaller_than_the_backlog_never_stalls(start_tier: StartTier) -> None:
    """Acknowledgements come in time though they are rare."""
    tier = await start_tier(ack_window=10, ack_interval_ms=60_000)
    sent = [tier.worker.make("7", str(n)) for n in range(200)]
    await tier.worker.archive_all(sent)
    await tier.worker.confirm(sent, archived=False)
    async with Client(tier.http, user="anna") as client:
        found: list[Event] = []
        task = asyncio.create_task(read(client.subscribe("7", since="0-0"), found))
        await until(lambda: len(texts(found)) == 200)
        task.cancel()
        assert texts(found) == [str(n) for n in range(200)]


async def test_a_server_that_says_stop_is_believed(tier: Tier) -> None:
    """4501 here, as no user is named: the loop ends with the reason instead of trying for ever."""
    async with Client(tier.http) as client:
        with pytest.raises(Stopped, match="4501 user is missing"):
            await anext(client.subscribe("7"))
        assert client.connections == 1


async def test_requests_are_answered(tier: Tier) -> None:
    """History, presence; an error is an answer."""
    sent = await tier.worker.send("7", "hello")
    async with Client(tier.http, user="anna", role="agent") as client:
        subscription = client.subscribe("7", since=sent.message_id)
        assert (await anext(subscription)).kind == "caught_up"
        page = await client.request("history", ticket_id="7")
        assert [message["message"] for message in page["messages"]] == ["hello"]
        here = await client.request("presence", ticket_id="7")
        assert here["members"] == [{"user_id": "anna", "role": "agent", "state": "online"}]
        assert (await client.request("presence", ticket_id="8"))["code"] == "not_subscribed"


async def test_clients_of_a_node_that_stops_come_back_elsewhere(start_tier: StartTier) -> None:
    """Within the window it names, without a close; nobody misses a message that is sent meanwhile."""
    tier = await start_tier()
    async with AsyncExitStack() as stack:
        found: list[list[Event]] = []
        clients = []
        for number in range(20):
            client = await stack.enter_async_context(Client(tier.http, user=str(number)))
            clients.append(client)
            found.append([])
            task = asyncio.create_task(read(client.subscribe("7"), found[-1]))
            stack.callback(task.cancel)
        await until(lambda: tier.node.rooms.seats == 20)
        await tier.worker.send("7", "first")
        await until(lambda: all(texts(one) == ["first"] for one in found))
        other = await start_tier()
        for client in clients:
            client.urls = [other.url + "/"]  # what a load balancer does
        draining = asyncio.create_task(drain(tier.node, scaled(4)))
        for n in range(10):
            await tier.worker.send("7", str(n))
            await asyncio.sleep(scaled(0.05))  # spread over the window
        await draining
        await until(lambda: all(len(texts(one)) == 11 for one in found))
        assert all(texts(one) == ["first", *map(str, range(10))] for one in found)
        await until(lambda: len(other.node.clients) == 20)


async def test_moving_to_another_node_is_no_goodbye(start_tier: StartTier) -> None:
    """The others in the ticket do not see somebody leave who only goes to another node, and miss no message either."""
    old, new = await start_tier(), await start_tier()
    async with Client(new.http, user="ben") as ben, Client(old.http, user="anna") as anna, AsyncExitStack() as stack:
        found: list[Event] = []
        for client in (ben, anna):
            subscription = client.subscribe("7", since="0-0")
            await anext(subscription)  # caught_up
            await client.request("presence", ticket_id="7", state="online")
        task = asyncio.create_task(read(subscription, found))
        stack.callback(task.cancel)
        anna.urls = [new.url + "/"]
        draining = asyncio.create_task(drain(old.node, scaled(2)))
        await old.worker.send("7", "meanwhile")
        await until(lambda: len(new.node.clients) == 2)
        await draining
        await until(lambda: texts(found) == ["meanwhile"])
        await old.node.clients.services.presence.snapshot("7")  # what the old node has to say has been said
        here = await ben.request("presence", ticket_id="7")
        assert [member["user_id"] for member in here["members"]] == ["anna", "ben"]
        told = [ben.notices.get_nowait() for _ in range(ben.notices.qsize())]
        assert [frame["left"] for frame in told if frame["type"] == "presence_diff" and frame["left"]] == []


async def test_one_is_seen_as_before_after_a_reconnect(tier: Tier) -> None:
    """Else an agent who answers would be gone for the others once the grace for reconnects is over."""
    async with Client(tier.http, user="ben", role="agent") as ben:
        await anext(ben.subscribe("7", since="0-0"))
        await ben.request("presence", ticket_id="7", activity="replying")
        ben._socket.transport.abort()  # type: ignore[union-attr]
        async with asyncio.timeout(scaled(10)):
            while (frame := await ben.notices.get())["type"] != "presence_state":
                pass
        assert ben.connections == 2
        assert [(one["user_id"], one["activity"]) for one in frame["members"]] == [("ben", "replying")]


async def test_large_messages_do_not_wait_for_the_clock(start_tier: StartTier) -> None:
    """The window counts bytes too: a client that counted messages alone would wait five seconds for each window."""
    tier = await start_tier(ack_bytes=20_000, ack_interval_ms=60_000)
    sent = [tier.worker.make("7", "x" * 7_000) for _ in range(50)]
    await tier.worker.archive_all(sent)
    await tier.worker.confirm(sent, archived=False)
    async with Client(tier.http, user="anna") as client:
        found: list[Event] = []
        task = asyncio.create_task(read(client.subscribe("7", since="0-0"), found))
        await until(lambda: len(texts(found)) == 50)
        task.cancel()


async def test_a_refused_handshake_is_the_end(tier: Tier) -> None:
    """404 will be 404 the next time: iterations and requests say so, those that begin later too."""
    async with Client(tier.http, user="anna") as client:
        client.urls = [f"{tier.url}/nowhere"]
        with pytest.raises(Stopped, match=r"404 .*there is no socket at '/nowhere'"):
            await anext(client.subscribe("7"))
        with pytest.raises(Stopped):
            await anext(client.subscribe("8"))
        with pytest.raises(Stopped):
            await client.request("history", ticket_id="7")


async def test_requests_of_a_closed_client_fail(tier: Tier) -> None:
    """Those under way, and those that come later."""
    client = Client(tier.http, user="anna")
    with pytest.raises(ConnectionError, match="not opened"):
        await client.request("history", ticket_id="7")
    async with client:
        await client.request("history", ticket_id="7")
    with pytest.raises(ConnectionError, match="closed"):
        await client.request("history", ticket_id="7")
