"""Subscriptions on every kind of Redis, through kills, restarts and moved slots."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import redis

from tests.integration.delivery.harness import running_tier
from tests.servers import RedisKind, RedisServers, running
from tests.until import scaled, until
from ticketwire.bus.bus import Bus, open_bus
from ticketwire.bus.subscriber import Subscriber, open_subscriber
from ticketwire.embedded.redis_server import EmbeddedRedis
from ticketwire.settings import SharedSettings


class Ear:
    """Keeps what it hears, and how often it was told that it may have missed something."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.missed = 0

    def on_message(self, payload: str) -> None:
        self.heard.append(payload)

    def on_missed(self) -> None:
        self.missed += 1


@asynccontextmanager
async def subscribed(url: str) -> AsyncIterator[tuple[Bus, Subscriber]]:
    shared = SharedSettings.model_validate({"redis_url": url, "database_url": "postgresql://none/x", "auth": "off"})
    async with open_bus(shared) as bus:
        await bus.check()
        async with open_subscriber(bus) as subscriber:
            yield bus, subscriber


async def publish(bus: Bus, channel: str, text: str) -> None:
    command = "SPUBLISH" if bus.features.sharded_pubsub else "PUBLISH"
    await bus.command(channel, command, channel, text)


async def test_every_channel_is_heard_wherever_its_server_is(bus_url: str) -> None:
    """Confirmed means subscribed: what is published right after is heard, in order; given up is not heard."""
    async with subscribed(bus_url) as (bus, subscriber):
        ears = {bus.keys.events(str(ticket)): Ear() for ticket in range(40)}
        await asyncio.gather(*(subscriber.subscribe(channel, ear) for channel, ear in ears.items()))
        for number in range(3):
            for channel in ears:
                await publish(bus, channel, f"{channel} {number}")
        for channel, ear in ears.items():
            await until(lambda ear=ear: len(ear.heard) == 3)
            assert ear.heard == [f"{channel} {number}" for number in range(3)]
        first = next(iter(ears))
        subscriber.unsubscribe(first)
        again = Ear()
        await subscriber.subscribe(first, again)  # right behind, on the same connection
        await publish(bus, first, "again")
        await until(lambda: again.heard == ["again"])
        assert len(ears[first].heard) == 3
        assert all(ear.missed == 0 for ear in ears.values())


async def test_killed_connections_come_back_and_say_so(bus: RedisServers) -> None:
    """Each listener is told that it may have missed something, once for each loss, when it hears again."""
    async with subscribed(bus.url) as (node, subscriber):
        ears = {node.keys.events(str(ticket)): Ear() for ticket in range(20)}
        await asyncio.gather(*(subscriber.subscribe(channel, ear) for channel, ear in ears.items()))
        for server in bus.nodes:
            with redis.Redis.from_url(server.url) as admin:
                admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: all(ear.missed == 1 for ear in ears.values()))
        for channel, ear in ears.items():
            await publish(node, channel, "back")
            await until(lambda ear=ear: ear.heard == ["back"])


async def test_a_subscription_waits_for_a_server_that_is_away(own_redis: EmbeddedRedis) -> None:
    """And can be given up while it waits."""
    async with subscribed(own_redis.url) as (bus, subscriber):
        own_redis.stop()
        patient, impatient = Ear(), Ear()
        waiting = asyncio.ensure_future(subscriber.subscribe("channel:patient", patient))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await subscriber.subscribe("channel:impatient", impatient)
        assert not waiting.done()
        own_redis.launch()
        await asyncio.to_thread(own_redis.wait_ready)
        await asyncio.wait_for(waiting, scaled(10))
        await bus.command("x", "PUBLISH", "channel:patient", "hello")
        assert await bus.command("x", "PUBLISH", "channel:impatient", "hello") == 0
        await until(lambda: patient.heard == ["hello"])


async def test_patterns_hear_their_channels(redis_url: str) -> None:
    """Besides a subscription to one of them: each listener hears a message once."""
    async with subscribed(redis_url) as (bus, subscriber):
        all_, one = Ear(), Ear()
        await subscriber.subscribe(bus.keys.events("*"), all_, pattern=True)
        await subscriber.subscribe(bus.keys.events("7"), one)
        for ticket in ("7", "8"):
            await publish(bus, bus.keys.events(ticket), ticket)
        await until(lambda: all_.heard == ["7", "8"])
        assert one.heard == ["7"]


async def test_a_moved_slot_takes_its_subscriptions_along(own_folder: Path) -> None:
    """Redis ends a sharded subscription whose slot leaves; a late one is sent on by MOVED."""
    with running(RedisKind.CLUSTER, own_folder) as cluster:
        async with subscribed(cluster.url) as (bus, subscriber):
            ear, late = Ear(), Ear()
            channel = bus.keys.events("7")
            await subscriber.subscribe(channel, ear)
            with ExitStack() as stack:
                clients = [stack.enter_context(redis.Redis.from_url(node.url)) for node in cluster.nodes]
                slot = clients[0].execute_command("CLUSTER", "KEYSLOT", channel)
                owner = next(client for client in clients if heard_by(client, channel))
                target, third = (client for client in clients if client is not owner)
                name = target.execute_command("CLUSTER", "MYID")
                for client in (target, owner, third):
                    client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", name)
                await until(lambda: ear.missed == 1)
                await subscriber.subscribe(channel + ":late", late)  # the same hash tag, so the same slot
                assert heard_by(target, channel)
                target.execute_command("SPUBLISH", channel, "moved")
                await until(lambda: ear.heard == ["moved"])
                target.execute_command("SPUBLISH", channel + ":late", "too")
                await until(lambda: late.heard == ["too"])


def heard_by(client: redis.Redis, channel: str) -> bool:
    return bool(client.execute_command("PUBSUB", "SHARDNUMSUB", channel)[1])


async def test_the_whole_tier_works_on_every_kind_of_redis(bus: RedisServers, postgres_url: str) -> None:
    """Live, since, and a killed subscription."""
    async with running_tier(bus.url, postgres_url) as tier:
        await until(lambda: tier.health.ready)
        await tier.worker.bus.check()
        clients = [await tier.client(f"?ticket_id={ticket}") for ticket in range(12)]
        for round_ in range(2):
            for ticket in range(12):
                await tier.worker.send(str(ticket), str(round_))
            for client in clients:
                await client.until(round_ + 1)
            for server in bus.nodes:
                with redis.Redis.from_url(server.url) as admin:
                    admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        assert all(client.texts == ["0", "1"] for client in clients)
        late = await tier.client("?ticket_id=3&since=0-0")
        await late.until(2)
        assert late.ids == clients[3].ids
