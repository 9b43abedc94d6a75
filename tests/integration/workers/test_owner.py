"""One owner at a time, stopped and disturbed at chosen moments."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from redis.asyncio import Redis

from tests.pipeline import check_tickets, drained, flood_one
from tests.until import scaled, until
from ticketwire.archive.messages import Archive
from ticketwire.bus.bus import Bus
from ticketwire.bus.partition import Entry, Lease, Partition, Settlement
from ticketwire.errors import Unavailable
from workers.fleet import Fleet
from workers.moderation.allow_all import AllowAll
from workers.owner import Owner
from workers.pipeline import Pipeline
from workers.settings import WorkerSettings


class Disturbed(Pipeline):
    """Calls `before` ahead of each batch."""

    before: Callable[[Sequence[Entry]], None]

    async def handle(self, entries: Sequence[Entry], now_ms: int) -> list[Settlement]:
        self.before(entries)
        return await super().handle(entries, now_ms)


class Forgetful(Partition):
    """Calls `before` ahead of each read of new entries."""

    before: Callable[[], Awaitable[None]]

    async def read(self, lease: Lease, count: int) -> list[Entry]:
        await self.before()
        return await super().read(lease, count)


async def own(
    core: tuple[Bus, Archive], settings: WorkerSettings, ticket: str, name: str, kind: type[Partition] = Partition
) -> tuple[Owner, Disturbed]:
    """Take the ticket's partition."""
    partition = kind(core[0], core[0].keys.partition_of(ticket), settings.shared)
    lease = await partition.acquire(name)
    assert isinstance(lease, Lease)
    pipeline = Disturbed(partition.partition, core[1], AllowAll(), name)
    return Owner(partition, lease, pipeline, core[1], settings), pipeline


async def test_an_owner_told_to_be_quiet_while_it_recovers_touches_nothing_newer(
    core: tuple[Bus, Archive], settings: WorkerSettings
) -> None:
    """It went on to read and confirm what was new, and so overtook what it had left pending: 18 messages of a
    partition got new ids behind later ones, when a worker came back just as another one had taken over.
    """
    bus = core[0]
    sent = await flood_one(bus, "T1", 3)
    stream = bus.keys.ingest(bus.keys.partition_of("T1"))
    await bus.command(stream, "XGROUP", "CREATE", stream, "workers", "0")
    await bus.command(stream, "XREADGROUP", "GROUP", "workers", "owner", "STREAMS", stream, ">")
    # The first is a suspect, so it is handled by itself and the others afterwards.
    claim = (stream, "workers", "owner", 0, sent[0][0], "RETRYCOUNT", 2, "JUSTID")
    await bus.command(stream, "XCLAIM", *claim)
    sent += await flood_one(bus, "T1", 2)
    first, pipeline = await own(core, settings, "T1", "first")
    pipeline.before = lambda _: first.quiet()
    await first.run()
    assert await first._partition.release(first.lease)
    second, pipeline = await own(core, settings, "T1", "second")
    pipeline.before = lambda entries: second.quiet() if entries[-1].id == sent[-1][0] else None
    await asyncio.wait_for(second.run(), scaled(10))
    await drained(bus)
    await check_tickets(core, {"T1": sent})


async def test_a_failover_at_a_read_lets_nothing_newer_overtake_what_is_unread_again(
    core: tuple[Bus, Archive], settings: WorkerSettings
) -> None:
    """The owner had read and shown two messages; the promoted replica knew them as accepted and not yet read. After the
    outage it waited for what was newer than all it had read, and so put a third message before those two.
    """
    bus = core[0]
    sent = await flood_one(bus, "T1", 2)
    keys = bus.keys
    stream, lease = keys.ingest(keys.partition_of("T1")), keys.lease(keys.partition_of("T1"))
    # As bytes, which a connection of ours, which decodes replies, cannot give.
    async with Redis.from_url(settings.shared.redis_url.get_secret_value()) as redis:
        replica = await redis.dump(stream)
        owner, pipeline = await own(core, settings, "T1", "owner", Forgetful)
        pipeline.before = lambda _: None
        reads = 0

        async def fail_over_at_the_second_read() -> None:
            nonlocal reads
            reads += 1
            if reads == 2:
                await redis.restore(stream, 0, replica, replace=True)
                await redis.hdel(lease, "done", "settled")
                await redis.delete(keys.log("T1"))
                sent.extend(await flood_one(bus, "T1", 1))
                raise Unavailable("Redis: connection closed")

        owner._partition.before = fail_over_at_the_second_read  # type: ignore[attr-defined]
        async with asyncio.TaskGroup() as group:
            group.create_task(owner.run())
            await until(lambda: reads > 2)
            await drained(bus)
            owner.quiet()
    assert len(sent) == 3
    await check_tickets(core, {"T1": sent})


async def test_suspects_are_tried_one_by_one_in_the_whole_process(
    core: tuple[Bus, Archive], settings: WorkerSettings
) -> None:
    """Each partition tried its own alone, at the same time as the others: a message that killed the worker took the
    suspects of other partitions along, again and again, until they were buried with it.
    """
    bus, tickets = core[0], ["T0", "T1", "T2", "T3", "T4", "T5"]
    partitions = {bus.keys.partition_of(ticket): ticket for ticket in tickets}
    assert len(partitions) == settings.shared.partitions
    sent = {ticket: await flood_one(bus, ticket, 3) for ticket in partitions.values()}
    for partition, ticket in partitions.items():
        stream = bus.keys.ingest(partition)
        await bus.command(stream, "XGROUP", "CREATE", stream, "workers", "0")
        await bus.command(stream, "XREADGROUP", "GROUP", "workers", "owner", "STREAMS", stream, ">")
        claim = (stream, "workers", "owner", 0, *(at for at, _ in sent[ticket]), "RETRYCOUNT", 2, "JUSTID")
        await bus.command(stream, "XCLAIM", *claim)
    in_hand: list[list[str]] = []  # at each try, whose delivery count says that it is being tried

    async def tried() -> list[str]:
        found = []
        for partition in partitions:
            stream = bus.keys.ingest(partition)
            pending = await bus.command(stream, "XPENDING", stream, "workers", "-", "+", 10)
            found += [at for at, _, _, deliveries in pending if deliveries > 2]
        return found

    class Looking(Pipeline):
        async def handle(self, entries: Sequence[Entry], now_ms: int) -> list[Settlement]:
            in_hand.append(await tried())
            assert in_hand[-1] == [entry.id for entry in entries]
            return await super().handle(entries, now_ms)

    def make_owner(partition: Partition, lease: Lease) -> Owner:
        return Owner(partition, lease, Looking(partition.partition, core[1], AllowAll(), "w"), core[1], settings, alone)

    alone = asyncio.Lock()
    fleet = Fleet(bus, "w", settings, make_owner)
    async with asyncio.TaskGroup() as group:
        group.create_task(fleet.run())
        await drained(bus)
        fleet.quiet()
    assert len(in_hand) == 3 * len(partitions)
    await check_tickets(core, sent)
