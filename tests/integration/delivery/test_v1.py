"""`ticketwire.v1` on a real node: subscribe, resume, acknowledge, changes of messages."""

from __future__ import annotations

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.integration.delivery.conftest import StartTier
from tests.integration.delivery.harness import Tier
from tests.integration.delivery.v1 import change, open_v1, v1
from tests.until import until


async def test_a_subscriber_gets_what_is_sent_from_then_on(tier: Tier) -> None:
    """`none`: nothing was asked to be resumed; the position told is the first event's prev_id."""
    before = await tier.worker.send("7", "before")
    client = await v1(tier)
    subscribed = await client.subscribe("7", id=5)
    assert (subscribed["id"], subscribed["resume"], subscribed["position"]) == (5, "none", before.message_id)
    sent = [await tier.worker.send("7", f"m{n}") for n in range(3)]
    await client.until_events(3)
    assert client.ids() == [event.message_id for event in sent]
    assert client.in_order("7")


async def test_everything_missed_follows_in_order(tier: Tier) -> None:
    """`full`: several pages, then caught_up, then live, as one chain of prev_id."""
    sent = [tier.worker.make("7", f"m{n}") for n in range(450)]
    await tier.worker.confirm(sent[:300])
    await tier.worker.confirm(sent[300:])
    client = await v1(tier, resume={"7": sent[9].message_id})
    subscribed = await client.one("subscribed")
    assert (subscribed["resume"], subscribed["position"]) == ("full", sent[9].message_id)
    assert subscribed["until"] == sent[-1].message_id
    caught_up = await client.one("caught_up")
    assert caught_up["position"] == sent[-1].message_id
    live = await tier.worker.send("7", "live")
    await client.until_events(441)
    assert client.ids() == [event.message_id for event in [*sent[10:], live]]
    assert client.in_order("7")


async def test_one_frame_resumes_all_tickets(tier: Tier) -> None:
    """Each ticket is answered for itself; one whose position is wrong does not hold the others up."""
    sent = {ticket: [await tier.worker.send(ticket) for _ in range(3)] for ticket in ("a", "b", "c")}
    resume = {"a": sent["a"][0].message_id, "b": "5-5", "c": None}
    client = await v1(tier, resume=resume)
    await client.one("subscribed", 3)
    answers = {frame["ticket_id"]: frame["resume"] for frame in client.of("subscribed")}
    assert answers == {"a": "full", "b": "reset", "c": "none"}
    await client.one("caught_up", ticket_id="a")
    assert client.ids("a") == [event.message_id for event in sent["a"][1:]]
    assert client.ids("b") == client.ids("c") == []


async def test_five_thousand_missed_messages_come_from_log_and_archive(start_tier: StartTier) -> None:
    """The log reaches back a thousand messages only; the rest comes from the archive, under the ack window."""
    tier = await start_tier(ack_window=100, shared={"log_entries": 1000})
    sent = [tier.worker.make("7", f"m{n}") for n in range(5_000)]
    for start in range(0, 5_000, 500):
        await tier.worker.archive_all(sent[start : start + 500])
        await tier.worker.confirm(sent[start : start + 500], archived=False)
    client = await v1(tier, resume={"7": sent[0].message_id})
    await until(lambda: client.of("caught_up"), timeout_s=30)
    live = await tier.worker.send("7", "live")
    await client.until_events(5_000)
    assert client.ids() == [event.message_id for event in [*sent[1:], live]]
    assert client.in_order("7")


async def test_a_position_that_never_existed_is_reset(tier: Tier) -> None:
    """In between two messages, in the future, or held: nobody can say what such a client has."""
    sent = [await tier.worker.send("7") for _ in range(3)]
    between = f"{sent[0].position.ms}-5"
    client = await v1(tier)
    for since in (between, "9999999999999-0", "1-1"):
        answer = await client.subscribe("7", since=since)
        assert (answer["resume"], answer["position"]) == ("reset", sent[2].message_id), since
    assert client.events() == []
    live = await tier.worker.send("7")
    await client.until_events(1)
    assert client.events()[0]["prev_id"] == sent[2].message_id
    assert client.ids() == [live.message_id]


async def test_reset_comes_with_the_history_asked_for(tier: Tier) -> None:
    """The page holds the newest messages up to the position told, so that page and events neither overlap nor gape."""
    sent = [await tier.worker.send("7", f"m{n}") for n in range(5)]
    client = await v1(tier)
    await client.subscribe("7", since="5-5", history=3, id=9)
    page = await client.one("history_page")
    assert [m["message_id"] for m in page["messages"]] == [event.message_id for event in sent[2:]]
    assert (page["id"], page["has_more"]) == (9, True)


async def test_an_archived_position_is_as_good_as_one_of_the_log(tier: Tier) -> None:
    """The log has expired: the archive still knows the position, and everything after it."""
    sent = [await tier.worker.send("7") for _ in range(5)]
    log = tier.worker.bus.keys.log("7")
    await tier.worker.bus.command(log, "DEL", log)
    client = await v1(tier, resume={"7": sent[1].message_id})
    await client.one("caught_up")
    assert client.of("subscribed")[0]["resume"] == "full"
    assert client.ids() == [event.message_id for event in sent[2:]]


async def test_a_node_that_is_behind_catches_up_before_it_judges(tier: Tier) -> None:
    """A position this node has not heard of yet, as its wake-up was lost, is in the log: `full`."""
    await v1(tier, resume={"7": None})
    await tier.worker.send("7")
    unheard = await tier.worker.send_unheard("7")
    client = await v1(tier, resume={"7": unheard.message_id})
    subscribed = await client.one("subscribed")
    assert (subscribed["resume"], subscribed["position"]) == ("full", unheard.message_id)
    live = await tier.worker.send("7")
    await client.until_events(1)
    assert client.ids() == [live.message_id]
    assert client.in_order("7")


async def test_subscribing_again_starts_over_from_the_new_position(tier: Tier) -> None:
    """What a client does when it finds a gap."""
    sent = [await tier.worker.send("7") for _ in range(4)]
    client = await v1(tier, resume={"7": sent[0].message_id})
    await client.one("caught_up")
    await client.subscribe("7", since=sent[1].message_id)
    await client.one("caught_up", 2)
    assert client.ids() == [event.message_id for event in [*sent[1:], *sent[2:]]]
    assert client.in_order("7")


async def test_a_device_goes_on_where_it_acknowledged(start_tier: StartTier) -> None:
    """A page that was loaded anew knows no position: the server does, per user and device."""
    tier = await start_tier(marks_seconds=0.05)
    first = await v1(tier, user="anna", device="phone", resume={"7": None})
    await first.one("subscribed")
    sent = [await tier.worker.send("7") for _ in range(3)]
    await first.until_events(3)
    await until(lambda: tier.redis.hget("chat:7:cursors", "anna:phone") == sent[2].message_id)
    await first.socket.close()
    missed = await tier.worker.send("7", "missed")
    again = await v1(tier, user="anna", device="phone", resume={"7": None})
    await again.one("caught_up")
    assert again.ids() == [missed.message_id]
    other = await v1(tier, user="anna", device="laptop", resume={"7": None})
    assert (await other.one("subscribed"))["resume"] == "none"


async def test_a_page_loaded_anew_at_once_goes_on_where_it_acknowledged(start_tier: StartTier) -> None:
    """Though its position has not been written to Redis yet: the node remembers what it will write."""
    tier = await start_tier(marks_seconds=60)
    first = await v1(tier, user="anna", device="phone", resume={"7": None})
    await first.one("subscribed")
    sent = [await tier.worker.send("7") for _ in range(3)]
    await first.until_events(3)
    seat = next(iter(tier.node.clients.services.clients))._seats["7"]  # type: ignore[attr-defined]
    await until(lambda: seat.acks.acked == sent[2].position)
    await first.socket.close()
    missed = await tier.worker.send("7", "missed")
    again = await v1(tier, user="anna", device="phone", resume={"7": None})
    await again.one("caught_up")
    assert again.of("subscribed")[0]["resume"] == "full"
    assert again.ids() == [missed.message_id]
    assert tier.redis.hgetall("chat:7:cursors") == {}


async def test_a_device_that_was_reset_is_not_reset_for_ever(start_tier: StartTier) -> None:
    """Its stored position may go back, which otherwise never happens."""
    tier = await start_tier(marks_seconds=0.05)
    tier.redis.hset("chat:7:cursors", "anna:phone", "9999999999999-0")
    sent = await tier.worker.send("7")
    client = await v1(tier, user="anna", device="phone", resume={"7": None})
    assert (await client.one("subscribed"))["resume"] == "reset"
    await until(lambda: tier.redis.hget("chat:7:cursors", "anna:phone") == sent.message_id)


async def test_a_full_window_pauses_one_socket_and_nobody_else(start_tier: StartTier) -> None:
    """Without acknowledgements exactly the window is sent; an acknowledgement lets as much follow, in order."""
    tier = await start_tier(ack_window=10)
    silent, eager = await v1(tier, acks=False, resume={"7": None}), await v1(tier, user="2", resume={"7": None})
    for client in (silent, eager):
        await client.one("subscribed")
    sent = [await tier.worker.send("7", f"m{n}") for n in range(40)]
    await eager.until_events(40)
    ids = [event.message_id for event in sent]
    assert silent.ids() == ids[:10]
    await silent.say(type="ack", ticket_id="7", position=ids[4])
    await silent.until_events(15)
    await silent.say(type="history", ticket_id="7", limit=1, id=1)  # what else would be sent would come before this
    await silent.one("history_page")
    assert silent.ids() == ids[:15]
    silent.acks = True
    await silent.say(type="ack", ticket_id="7", position=ids[14])
    await silent.until_events(40)
    assert silent.ids() == ids
    assert silent.in_order("7")
    live = await tier.worker.send("7", "live")
    await silent.until_events(41)
    assert silent.ids()[-1] == live.message_id


async def test_the_window_is_the_socket_s_and_counts_bytes_too(start_tier: StartTier) -> None:
    """Over several tickets together: at most one event of each ticket beyond it."""
    tier = await start_tier(ack_window=500, ack_bytes=20_000)
    client = await v1(tier, acks=False, resume={"a": None, "b": None})
    await client.one("subscribed", 2)
    for _ in range(10):
        await tier.worker.send("a", "x" * 4_000)
        await tier.worker.send("b", "x" * 4_000)
    await until(lambda: len(client.ids()) >= 4)
    await client.say(type="history", ticket_id="c", limit=1)
    await client.one("history_page")
    assert 4 <= len(client.ids()) <= 6
    client.acks = True
    for ticket in ("a", "b"):
        await client.say(type="ack", ticket_id=ticket, position=client.ids(ticket)[-1])
    await client.until_events(20)
    assert client.in_order("a")
    assert client.in_order("b")


async def test_a_client_that_never_acknowledges_is_closed_with_4008(start_tier: StartTier) -> None:
    """It may come back with its position."""
    tier = await start_tier(ack_window=5, ack_seconds=0.5)
    client = await v1(tier, acks=False, resume={"7": None})
    await client.one("subscribed")
    sent = [await tier.worker.send("7") for _ in range(8)]
    assert (await client.ended())[0] == 4008
    assert client.of("error")[0]["code"] == "ack_timeout"
    again = await v1(tier, resume={"7": client.ids()[-1]})
    await again.until_events(3)
    assert client.ids() + again.ids() == [event.message_id for event in sent]


async def test_acknowledging_what_was_not_sent_ends_the_socket(tier: Tier) -> None:
    """4501: such a client has lost count, and coming back the same way would not help."""
    client = await v1(tier, resume={"7": None})
    await client.one("subscribed")
    await tier.worker.send("7")
    await client.until_events(1)
    await client.say(type="ack", ticket_id="7", position="9999999999999-0")
    assert (await client.ended())[0] == 4501
    assert client.of("error")[0]["code"] == "ack_ahead"


async def test_edits_and_deletions_come_in_order(tier: Tier) -> None:
    """Live as events with a place of their own; plain readers see messages only, and miss none."""
    client, plain = await v1(tier, resume={"7": None}), await tier.client("?ticket_id=7")
    await client.one("subscribed")
    first, second = await tier.worker.send("7", "first"), await tier.worker.send("7", "second")
    update = await change(tier, first, "edited")
    deletion = await change(tier, second, None)
    last = await tier.worker.send("7", "last")
    await client.until_events(5)
    await plain.until(3)
    assert client.in_order("7")
    assert [frame["type"] for frame in client.events()] == [
        "message", "message", "message_updated", "message_deleted", "message",
    ]  # fmt: skip
    updated, deleted = client.events()[2:4]
    assert (updated["message_id"], updated["event_id"], updated["message"]) == (
        first.message_id, update.message_id, "edited",
    )  # fmt: skip
    assert (deleted["message_id"], deleted["event_id"]) == (second.message_id, deletion.message_id)
    assert plain.ids == [event.message_id for event in (first, second, last)]
    await client.say(type="history", ticket_id="7", id=3)
    page = await client.one("history_page")
    assert [(m["message_id"], m["message"]) for m in page["messages"]] == [
        (first.message_id, "edited"), (last.message_id, "last"),
    ]  # fmt: skip


async def test_who_was_away_during_changes_gets_the_message_and_its_change(tier: Tier) -> None:
    """An updated message is not lost for those who never saw the first text; a deleted one's text is nowhere."""
    zero, first, second = [await tier.worker.send("7", text) for text in ("zero", "first", "second")]
    update, deletion = await change(tier, first, "edited"), await change(tier, second, None)
    last = await tier.worker.send("7", "last")
    for _ in range(2):  # from the log and the archive, then from memory
        client = await v1(tier, resume={"7": zero.message_id})
        await client.one("caught_up")
        assert client.in_order("7")
        assert client.ids() == [event.message_id for event in (first, update, deletion, last)]
        assert [frame.get("message") for frame in client.events()] == ["edited", "edited", None, "last"]
    at_target = await v1(tier, resume={"7": second.message_id})
    await at_target.one("caught_up")
    assert at_target.in_order("7")
    assert at_target.ids() == [event.message_id for event in (update, deletion, last)]
    plain = await tier.client(f"?ticket_id=7&since={zero.message_id}")
    await plain.until(2)
    assert plain.texts == ["edited", "last"]


async def test_client_message_id_is_told_to_its_author_only(tier: Tier) -> None:
    """On every socket of the author, live and on resume: that is how a page knows its own message again."""
    start = await tier.worker.send("7")
    author, tab, other = (
        await v1(tier, user="anna", resume={"7": start.message_id}),
        await v1(tier, user="anna", resume={"7": start.message_id}),
        await v1(tier, user="ben", resume={"7": start.message_id}),
    )
    for client in (author, tab, other):
        await client.one("caught_up")
    event = tier.worker.make("7", "hello", "anna")._replace(client_message_id="c-1")
    await tier.worker.confirm([event, tier.worker.make("7", "hello", "ben")])
    for client in (author, tab, other):
        await client.until_events(2)
        assert client.in_order("7")
    late = await v1(tier, user="anna", resume={"7": start.message_id})
    await late.until_events(2)
    told = [client.events()[0].get("client_message_id") for client in (author, tab, late, other)]
    assert told == ["c-1", "c-1", "c-1", None]


async def test_redis_loses_everything_and_every_client_has_everything(tier: Tier) -> None:
    """FLUSHALL while clients are connected; one of them is away at that moment."""
    here = await v1(tier, resume={"7": None})
    await here.one("subscribed")
    sent = [await tier.worker.send("7") for _ in range(3)]
    away = await v1(tier, user="2", resume={"7": sent[0].message_id})
    await away.until_events(2)
    await away.socket.close()
    tier.redis.flushall()
    sent += [await tier.worker.send("7") for _ in range(3)]
    await here.until_events(6)
    again = await v1(tier, user="2", resume={"7": away.ids()[-1]})
    await again.until_events(3)
    assert here.ids() == [event.message_id for event in sent]
    assert away.ids() + again.ids() == [event.message_id for event in sent[1:]]
    assert here.in_order("7")
    assert again.in_order("7")


async def test_plain_sockets_and_v1_share_a_room(tier: Tier) -> None:
    """Same order for both; no subprotocol is plain mode as ever."""
    plain, client = await tier.client("?ticket_id=7"), await v1(tier, resume={"7": None})
    await client.one("subscribed")
    for n in range(5):
        await tier.worker.send("7", str(n))
    await plain.until(5)
    await client.until_events(5)
    assert client.ids() == plain.ids


async def test_an_unknown_version_is_told_by_a_close_code(tier: Tier) -> None:
    """4508: a client of tomorrow must not take this node for one that speaks its protocol."""
    async with connect(f"{tier.url}/", subprotocols=[Subprotocol("ticketwire.v9")]) as socket:
        with pytest.raises(ConnectionClosed) as caught:
            await socket.recv()
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 4508
    assert (await open_v1(tier)).socket.subprotocol == "ticketwire.v1"
