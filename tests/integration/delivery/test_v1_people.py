"""What v1 clients learn of each other: receipts, unread, presence, typing."""

from __future__ import annotations

import asyncio
from typing import Any

from delivery import metrics
from delivery.clients import NodeLoad
from tests.integration.delivery.conftest import StartTier
from tests.integration.delivery.harness import Tier
from tests.integration.delivery.v1 import V1, v1
from tests.until import scaled, until


def people(client: V1) -> dict[str, dict[str, Any]]:
    """Who is there, as a client that follows the rules sees it: the last state and the diffs after it."""
    found: dict[str, dict[str, Any]] = {}
    version = -1
    for frame in client.of("presence_state", "presence_diff"):
        if frame["type"] == "presence_state":
            found = {m["user_id"]: m for m in frame["members"]}
            version = frame["version"]
        elif version >= 0 and frame["version"] > version:
            assert frame["version"] == version + 1
            version = frame["version"]
            found |= {m["user_id"]: m for m in frame["members"]}
            for user in frame["left"]:
                found.pop(user, None)
    return found


# --- receipts and unread


async def test_acknowledged_and_read_become_receipts_for_the_others(start_tier: StartTier) -> None:
    """`delivered` by itself, `read` when the client says so; each only forward."""
    tier = await start_tier(marks_seconds=0.05)
    anna, ben = await v1(tier, user="anna", resume={"7": None}), await v1(tier, user="ben", resume={"7": None})
    for client in (anna, ben):
        await client.one("subscribed")
    sent = [await tier.worker.send("7", sender="anna") for _ in range(3)]
    await anna.one("receipt", user_id="ben", delivered=sent[2].message_id)
    await ben.say(type="read", ticket_id="7", position=sent[1].message_id)
    receipt = await anna.one("receipt", user_id="ben", read=sent[1].message_id)
    assert "delivered" not in receipt
    await ben.say(type="read", ticket_id="7", position=sent[0].message_id)
    await ben.say(type="read", ticket_id="7", position=sent[2].message_id)
    await anna.one("receipt", user_id="ben", read=sent[2].message_id)
    read = [f["read"] for f in anna.of("receipt") if "read" in f and f["user_id"] == "ben"]
    assert read == [sent[1].message_id, sent[2].message_id]


async def test_a_position_resumed_from_counts_as_acknowledged(tier: Tier) -> None:
    """A node took a client's last acknowledgement with it when it was killed, and no message followed: the client's
    device stayed behind for good, and nobody was told that the last message had been delivered."""
    anna = await v1(tier, user="anna", resume={"7": None})
    await anna.one("subscribed")
    sent = [await tier.worker.send("7", sender="anna") for _ in range(2)]
    first = await v1(tier, user="ben", acks=False, device="d", resume={"7": "0-0"})
    await first.until_events(2)
    assert tier.redis.hget("chat:7:cursors", "ben:d") is None
    await first.socket.close(3000)
    again = await v1(tier, user="ben", acks=False, device="d", resume={"7": sent[1].message_id})
    await again.one("subscribed", resume="full")
    await anna.one("receipt", user_id="ben", delivered=sent[1].message_id)
    assert tier.redis.hget("chat:7:cursors", "ben:d") == sent[1].message_id


async def test_a_user_hears_of_the_own_reading_but_not_of_the_own_acknowledging(start_tier: StartTier) -> None:
    """Another device marks as read what was read on this one; that it was delivered here is nothing to it."""
    tier = await start_tier(marks_seconds=0.05)
    anna, phone, laptop = [await v1(tier, user=user, resume={"7": None}) for user in ("anna", "ben", "ben")]
    for client in (anna, phone, laptop):
        await client.one("subscribed")
    sent = await tier.worker.send("7", sender="anna")
    await anna.one("receipt", user_id="ben", delivered=sent.message_id)
    await phone.say(type="read", ticket_id="7", position=sent.message_id)
    await laptop.one("receipt", user_id="ben", read=sent.message_id)
    assert not [f for f in laptop.of("receipt") if f["user_id"] == "ben" and "read" not in f]


async def test_reading_beyond_the_end_is_an_error(tier: Tier) -> None:
    """Nobody has read what was not sent."""
    client = await v1(tier, resume={"7": None})
    await client.one("subscribed")
    await client.say(type="read", id=4, ticket_id="7", position="9999999999999-0")
    assert (await client.one("error"))["code"] == "ack_ahead"
    assert client.of("error")[0]["id"] == 4


async def test_unread_counts_messages_of_others_after_the_read_position(start_tier: StartTier) -> None:
    """From the log, and from the archive where the log no longer reaches back."""
    tier = await start_tier(marks_seconds=0.05)
    client = await v1(tier, user="anna", resume={"7": None})
    assert "unread" not in await client.one("subscribed")
    first = await tier.worker.send("7", sender="ben")
    await client.until_events(1)
    await client.say(type="read", ticket_id="7", position=first.message_id)
    await until(lambda: tier.redis.hget("chat:7:reads", "anna"))
    for sender in ("ben", "anna", "carl"):
        await tier.worker.send("7", sender=sender)
    again = await v1(tier, user="anna", resume={"7": None})
    frame = await again.one("subscribed")
    assert (frame["read"], frame["unread"]) == (first.message_id, 2)
    tier.redis.xtrim("chat:7", maxlen=1, approximate=False)
    later = await v1(tier, user="anna", resume={"7": None})
    assert (await later.one("subscribed"))["unread"] == 2
    other = await v1(tier, user="ben", resume={"7": None})
    assert (await other.one("subscribed"))["reads"] == {"anna": first.message_id}


async def test_a_crowd_gets_no_receipts(start_tier: StartTier) -> None:
    """Receipts of all for all grow with the square of the readers."""
    tier = await start_tier(marks_seconds=0.05, receipt_readers=2)
    clients = [await v1(tier, user=str(n), resume={"7": None}) for n in range(3)]
    for client in clients:
        await client.one("subscribed")
    sent = await tier.worker.send("7")
    await until(lambda: len(tier.redis.hgetall("chat:7:cursors")) == 3)
    assert tier.redis.hget("chat:7:cursors", "1") == sent.message_id
    await clients[0].socket.close()
    await until(lambda: tier.node.rooms.seats == 2)
    last = await tier.worker.send("7")
    await clients[1].one("receipt", user_id="2", delivered=last.message_id)
    assert all(f["delivered"] == last.message_id for f in clients[1].of("receipt"))


# --- presence


async def test_tabs_are_one_person(tier: Tier) -> None:
    """Online if any tab is, replying if any tab is; gone with the last one."""
    watcher = await v1(tier, user="w", resume={"7": None})
    await watcher.one("subscribed")
    await watcher.say(type="presence", id=1, ticket_id="7", state="hidden")
    assert (await watcher.one("presence_state"))["members"] == []
    tabs = [await v1(tier, user="anna", role="agent", resume={"7": None}) for _ in range(2)]
    for tab in tabs:
        await tab.one("subscribed")
    await tabs[0].say(type="presence", ticket_id="7", state="away")
    await until(lambda: people(watcher) == {"anna": {"user_id": "anna", "role": "agent", "state": "away"}})
    await tabs[1].say(type="presence", ticket_id="7", activity="viewing")
    await until(lambda: people(watcher).get("anna", {}).get("state") == "online")
    await tabs[0].say(type="presence", ticket_id="7", state="online", activity="replying")
    await until(lambda: people(watcher)["anna"].get("activity") == "replying")
    assert people(tabs[1])["anna"]["state"] == "online"
    await tabs[0].say(type="unsubscribe", ticket_id="7")
    await until(lambda: people(watcher)["anna"].get("activity") == "viewing")
    await tabs[1].say(type="unsubscribe", ticket_id="7")
    await until(lambda: people(watcher) == {})


async def test_who_loses_the_connection_stays_for_a_while(start_tier: StartTier) -> None:
    """Coming back in time nobody notices; an explicit goodbye counts at once, and so does the end of the grace."""
    tier = await start_tier(presence_grace_seconds=scaled(1.0))
    watcher = await v1(tier, user="w", resume={"7": None})
    await watcher.one("subscribed")
    await watcher.say(type="presence", ticket_id="7", state="hidden")
    await watcher.one("presence_state")
    anna = await v1(tier, user="anna", resume={"7": None})
    await anna.one("subscribed")
    await anna.say(type="presence", ticket_id="7")
    await until(lambda: "anna" in people(watcher))
    anna.socket.transport.abort()
    await until(lambda: len(tier.node.clients) == 1)
    again = await v1(tier, user="anna", resume={"7": None})
    await again.one("subscribed")
    await again.say(type="presence", ticket_id="7")
    await again.one("presence_state")
    diffs = len(watcher.of("presence_diff"))
    again.socket.transport.abort()
    await until(lambda: people(watcher) == {})
    assert len(watcher.of("presence_diff")) == diffs + 1
    assert all(not frame["left"] for frame in watcher.of("presence_diff")[:-1])
    third = await v1(tier, user="anna", resume={"7": None})
    await third.one("subscribed")
    await third.say(type="presence", ticket_id="7")
    await until(lambda: "anna" in people(watcher))
    start = asyncio.get_running_loop().time()
    await third.socket.close()  # 1000: a goodbye
    await until(lambda: people(watcher) == {})
    assert asyncio.get_running_loop().time() - start < scaled(1.0)


async def test_people_of_a_dead_node_leave_with_its_lease(start_tier: StartTier) -> None:
    """Two nodes see the same people; one is gone without a word."""
    ours = await start_tier(presence_lease_seconds=scaled(0.6))
    watcher = await v1(ours, user="w", resume={"7": None})
    await watcher.one("subscribed")
    await watcher.say(type="presence", ticket_id="7", state="hidden")
    await watcher.one("presence_state")
    # What a node leaves behind that was killed.
    redis = ours.redis
    redis.hset("chat:7:presence", mapping={"anna:dead-node": "agent:online:", "@dead-node": "9999999999999"})
    await watcher.say(type="presence", ticket_id="7", state="hidden")
    await until(lambda: "anna" in people(watcher))
    redis.hset("chat:7:presence", "@dead-node", "1000")
    await until(lambda: people(watcher) == {})
    assert redis.hkeys("chat:7:presence") != []
    assert not [key for key in redis.hkeys("chat:7:presence") if "dead-node" in key]


async def test_one_person_on_two_nodes_is_one_and_stays_while_either_has_them(start_tier: StartTier) -> None:
    """Merged by user across nodes: leaving one of them is no news."""
    one, two = await start_tier(), await start_tier()
    watcher = await v1(one, user="w", resume={"7": None})
    await watcher.one("subscribed")
    await watcher.say(type="presence", ticket_id="7", state="hidden")
    await watcher.one("presence_state")
    tabs = [await v1(tier, user="anna", resume={"7": None}) for tier in (one, two)]
    for tab in tabs:
        await tab.one("subscribed")
        await tab.say(type="presence", ticket_id="7")
        await tab.one("presence_state")
    await until(lambda: "anna" in people(watcher))
    diffs = len(watcher.of("presence_diff"))
    await tabs[1].say(type="unsubscribe", ticket_id="7")
    await until(lambda: not any(two.node.name in key for key in one.redis.hkeys("chat:7:presence") if ":" in key))
    assert len(watcher.of("presence_diff")) == diffs
    await tabs[0].say(type="unsubscribe", ticket_id="7")
    await until(lambda: people(watcher) == {})


async def test_presence_that_redis_lost_is_told_again(start_tier: StartTier) -> None:
    """After FLUSHALL the nodes say again who is there."""
    tier = await start_tier(presence_lease_seconds=scaled(0.6))
    anna = await v1(tier, user="anna", resume={"7": None})
    await anna.one("subscribed")
    await anna.say(type="presence", ticket_id="7", activity="replying")
    await anna.one("presence_state")
    tier.redis.flushall()
    await until(lambda: any(key.startswith("anna:") for key in tier.redis.hkeys("chat:7:presence")))
    ben = await v1(tier, user="ben", resume={"7": None})
    await ben.one("subscribed")
    await ben.say(type="presence", ticket_id="7")
    await until(lambda: set(people(ben)) == {"anna", "ben"})
    assert people(ben)["anna"]["activity"] == "replying"


# --- typing


async def test_typing_is_passed_on_and_ends_with_a_message(start_tier: StartTier) -> None:
    """Not to oneself, not too often; after a message of that user there is no notice of its end."""
    tier = await start_tier(typing_seconds=scaled(2))
    anna, ben = await v1(tier, user="anna", resume={"7": None}), await v1(tier, user="ben", resume={"7": None})
    for client in (anna, ben):
        await client.one("subscribed")
    for _ in range(5):
        await anna.say(type="typing", ticket_id="7")
    told = await ben.one("typing")
    assert (told["user_id"], told["on"], told["expires_in_ms"]) == ("anna", True, scaled(2) * 1000)
    await tier.worker.send("7", sender="anna")
    await ben.until_events(1)
    await anna.say(type="typing", ticket_id="7")  # she begins again
    await ben.one("typing", 2)
    await anna.say(type="typing", ticket_id="7", on=False)
    await ben.one("typing", on=False)
    assert [frame["on"] for frame in ben.of("typing")] == [True, True, False]
    assert anna.of("typing") == []


async def test_typing_ends_by_itself_and_with_its_user(start_tier: StartTier) -> None:
    """A browser that dies in the middle of a word leaves no indicator behind."""
    tier = await start_tier(typing_seconds=1)
    anna, ben = await v1(tier, user="anna", resume={"7": None}), await v1(tier, user="ben", resume={"7": None})
    for client in (anna, ben):
        await client.one("subscribed")
    await anna.say(type="typing", ticket_id="7")
    await ben.one("typing", on=False)
    await anna.say(type="typing", ticket_id="7")
    await ben.one("typing", 2, on=True)
    anna.socket.transport.abort()
    await ben.one("typing", 2, on=False)


class Overloaded(NodeLoad):
    """A node that never recovers."""

    @property
    def shedding(self) -> bool:  # type: ignore[override]
        return True

    @shedding.setter
    def shedding(self, value: bool) -> None:
        """What is measured does not matter."""


async def test_typing_is_shed_first(start_tier: StartTier) -> None:
    """An overloaded node passes messages on, not typing; what it left out is counted."""
    tier = await start_tier()
    anna, ben = await v1(tier, user="anna", resume={"7": None}), await v1(tier, user="ben", resume={"7": None})
    for client in (anna, ben):
        await client.one("subscribed")
    before = metrics.SHED.labels("typing")._value.get()
    tier.node.clients.load = Overloaded()
    await anna.say(type="typing", ticket_id="7")
    await until(lambda: metrics.SHED.labels("typing")._value.get() > before)
    await tier.worker.send("7")
    await ben.until_events(1)
    assert ben.of("typing") == []
