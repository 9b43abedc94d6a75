"""`ticketwire.v1` on a real node: subscribe, resume, acknowledge, changes."""

from __future__ import annotations

from tests.integration.delivery.harness import Tier
from tests.integration.delivery.v1 import v1


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
