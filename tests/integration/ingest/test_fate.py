"""`GET /messages/{ticket}/{message_id}` knows a message from the moment it was accepted, wherever it lies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from schemas.entries import encode_submitted
from schemas.events import Submitted
from schemas.message_id import MessageId
from tests.integration.ingest.conftest import StartNode
from tests.integration.ingest.harness import KEYS, Node, settings_of
from ticketwire.archive.dead_letters import LetterArchive, LetterCopy
from ticketwire.archive.messages import Archive, open_archive
from ticketwire.archive.rows import ArchiveRow, Status
from ticketwire.bus.bus import Bus, open_bus
from ticketwire.bus.dead_letters import DeadLetters
from ticketwire.bus.partition import Lease, Partition, Settlement, dead_letter
from ticketwire.embedded.redis_server import EmbeddedRedis
from ticketwire.errors import Rejected

TICKET = "12345"
PARTITION = KEYS.partition_of(TICKET)


@dataclass
class World:
    """A node, and in the test's hands what a worker has: the archive and the partition's lease."""

    node: Node
    bus: Bus
    archive: Archive
    partition: Partition
    lease: Lease

    async def accept(self, text: str = "Hello") -> MessageId:
        return MessageId.parse((await self.node.send(text, ticket=TICKET)).json()["message_id"])

    async def fate(self, message_id: MessageId | str, ticket: str = TICKET) -> dict[str, Any]:
        answer = await self.node.client.get(f"/messages/{ticket}/{message_id}")
        return {"http": answer.status_code, **answer.json()}

    async def store(self, message_id: MessageId, status: Status, verdict: str | None = None) -> None:
        row = ArchiveRow(TICKET, *message_id, PARTITION, "1", "Hello", status, message_id.ms // 1000, verdict)
        await self.archive.store([row])

    async def settle(self, message_id: MessageId) -> None:
        await self.partition.confirm(self.lease, [Settlement(str(message_id), "none")])

    def letter(self, message_id: MessageId) -> list[str]:
        fields = encode_submitted(Submitted(ticket_id=TICKET, sender_id="1", message="Hello"))
        error = Rejected("archive_refused", "PostgreSQL says no")
        return dead_letter(
            str(message_id), fields, error, stage="archive", attempts=1, first_at_ms=message_id.ms,
            last_at_ms=message_id.ms + 5, worker="w",
        )  # fmt: skip

    async def bury(self, message_id: MessageId) -> None:
        await self.partition.confirm(self.lease, [Settlement(str(message_id), "dead", fields=self.letter(message_id))])


@pytest.fixture
async def world(start_node: StartNode, redis_url: str, postgres_url: str) -> AsyncIterator[World]:
    node = await start_node(redis_url, database_url=postgres_url)
    settings = settings_of(redis_url).shared
    async with open_bus(settings) as bus, open_archive(postgres_url) as archive:
        await bus.check()
        partition = Partition(bus, PARTITION, settings)
        lease = await partition.acquire("test")
        assert isinstance(lease, Lease)
        await partition.recover(lease, "-", 10, takeover=True)
        yield World(node, bus, archive, partition, lease)


async def test_pending_from_the_moment_it_was_accepted(world: World) -> None:
    """No worker has seen it yet."""
    message_id = await world.accept()
    assert await world.fate(message_id) == {
        "http": 200,
        "ticket_id": TICKET,
        "message_id": str(message_id),
        "status": "pending",
        "accepted_at_ms": message_id.ms,
    }


@pytest.mark.parametrize("status", ["confirmed", "masked", "held", "rejected"])
async def test_what_the_archive_says_when_it_is_settled(world: World, status: Status) -> None:
    """With the time of archiving, and the verdict as the reason."""
    message_id = await world.accept()
    await world.store(message_id, status, None if status == "confirmed" else '{"hits": [{"rule": "words"}]}')
    assert (await world.fate(message_id))["status"] == "pending", "archived is not settled yet"
    await world.settle(message_id)
    fate = await world.fate(message_id)
    assert fate["status"] == status
    assert fate["archived_at_ms"] > 1_600_000_000_000
    assert ("reason" in fate) is (status != "confirmed")
    assert "message" not in fate
    assert "body" not in fate


async def test_a_dead_letter_tells_why(world: World) -> None:
    """Code and sentence; also when the archive has a row, as of a message that killed its worker."""
    message_id = await world.accept()
    await world.store(message_id, "confirmed")
    await world.bury(message_id)
    fate = await world.fate(message_id)
    assert fate["status"] == "dead"
    assert (fate["reason"], fate["error"]) == ("archive_refused", "PostgreSQL says no")
    assert fate["buried_at_ms"] == message_id.ms + 5


async def test_a_dead_letter_under_a_later_id_is_found_too(world: World) -> None:
    """The stream of letters had run ahead: a clock was set back, or letters of a restored Redis lie there."""
    dead = KEYS.dead(PARTITION)
    message_id = await world.accept()
    other = world.letter(MessageId(message_id.ms, 7))
    await world.bus.command(dead, "XADD", dead, f"{message_id.ms + 60_000}-0", *other)
    await world.bury(message_id)
    assert (await world.fate(message_id))["status"] == "dead"


async def test_a_letter_sent_again_is_followed(world: World) -> None:
    """From the note in Redis, and from PostgreSQL once it has it; the id asked for stays the one answered."""
    message_id = await world.accept()
    await world.bury(message_id)
    letters = DeadLetters(world.bus)
    letter = (await letters.get(PARTITION, [str(message_id)]))[str(message_id)]
    (sent,) = await letters.send(PARTITION, [letter], "{}")
    assert sent is not None
    expected = {"sent_again_as": sent.new_id, "status": "pending", "accepted_at_ms": message_id.ms}
    assert expected.items() <= (await world.fate(message_id)).items()
    kept = LetterArchive(world.archive.database)
    await kept.keep([_copy(message_id)])
    await kept.sent(PARTITION, message_id, new_id=sent.new_id, at_ms=sent.at_ms, actor="a", why="w")
    await letters.forget(PARTITION, [str(message_id)])
    assert expected.items() <= (await world.fate(message_id)).items()
    await world.store(MessageId.parse(sent.new_id), "confirmed")
    await world.settle(MessageId.parse(sent.new_id))
    assert (await world.fate(message_id))["status"] == "confirmed"


async def test_a_purged_letter_stays_dead(world: World) -> None:
    """Its text is gone from Redis, its fate is not forgotten."""
    message_id = await world.accept()
    await world.bury(message_id)
    await LetterArchive(world.archive.database).purging([_copy(message_id)], "a", "why")
    await DeadLetters(world.bus).remove(PARTITION, [str(message_id)])
    fate = await world.fate(message_id)
    assert (fate["status"], fate["reason"]) == ("dead", "archive_refused")
    assert fate["purged_at_ms"] > 0


def _copy(message_id: MessageId) -> LetterCopy:
    return LetterCopy(
        PARTITION, message_id, str(message_id), TICKET, "archive_refused", "PostgreSQL says no", "Rejected", "archive",
        1, message_id.ms, message_id.ms, "w", "", ["ticket_id", TICKET],
    )  # fmt: skip


async def test_a_message_that_its_log_renamed_says_where_it_is_shown(world: World) -> None:
    """Readers see it under another id than its sender was told."""
    message_id = await world.accept()
    await world.store(message_id, "confirmed")
    await world.settle(message_id)
    await world.archive.rename(TICKET, message_id, MessageId(message_id.ms + 9, 0))
    fate = await world.fate(message_id)
    assert (fate["status"], fate["shown_as"]) == ("confirmed", f"{message_id.ms + 9}-0")


async def test_other_tickets_and_unknown_ids_are_404(world: World) -> None:
    """An id of the same partition tells nothing to who asks for another ticket."""
    twin = next(f"t{n}" for n in range(999) if KEYS.partition_of(f"t{n}") == PARTITION)
    pending, dead = await world.accept(), await world.accept()
    await world.bury(dead)
    for ticket, message_id in ((twin, pending), (twin, dead), (TICKET, "1-0"), (TICKET, f"{2**64 - 1}-{2**64 - 1}")):
        assert (await world.fate(message_id, ticket))["http"] == 404


@pytest.mark.parametrize(
    "path", ["/messages/12345/x", "/messages/a:b/1-0", "/messages/12345/1-2-3", f"/messages/1/{2**64}"]
)
async def test_what_is_no_id_is_422(world: World, path: str) -> None:
    """With what was found and what is allowed."""
    answer = await world.node.client.get(path)
    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid"


async def test_an_accepted_message_is_never_404_while_it_is_settled(world: World) -> None:
    """Asked again and again while a worker archives, confirms and buries: always known, and never back to pending."""
    ids = [await world.accept(f"{n}") for n in range(60)]
    settling = asyncio.create_task(_settle_all(world, ids))
    seen: dict[MessageId, list[str]] = {message_id: [] for message_id in ids}
    while True:
        last = settling.done()
        fates = await asyncio.gather(*(world.fate(message_id) for message_id in ids))
        for message_id, fate in zip(ids, fates, strict=True):
            seen[message_id].append(fate.get("status", f"http {fate['http']}"))
        if last:
            break
    await settling
    for n, history in enumerate(seen.values()):
        end = "dead" if n % 3 == 0 else "confirmed"
        assert history == sorted(history, key=["pending", end].index)
        assert history[-1] == end


async def _settle_all(world: World, ids: list[MessageId]) -> None:
    for n, message_id in enumerate(ids):
        if n % 3 == 0:
            await world.bury(message_id)
        else:
            await world.store(message_id, "confirmed")
            await world.settle(message_id)


async def test_without_postgresql_the_rest_is_still_known(node: Node) -> None:
    """Pending is known from Redis alone; what only the archive could tell is 503, not 404."""
    message_id = (await node.send()).json()["message_id"]
    pending = await node.client.get(f"/messages/12345/{message_id}")
    assert (pending.status_code, pending.json()["status"]) == (200, "pending")
    other = await node.client.get("/messages/12345/1-0")
    assert (other.status_code, other.json()["code"]) == (503, "unavailable")
    assert "retry-after" in other.headers


async def test_without_redis_the_archive_is_still_asked(
    start_node: StartNode, own_redis: EmbeddedRedis, postgres_url: str
) -> None:
    """What is archived is known; for anything else it is 503, because it may well be pending."""
    node = await start_node(own_redis.url, database_url=postgres_url)
    async with open_archive(postgres_url) as archive:
        await archive.store([ArchiveRow("12345", 1, 0, PARTITION, "1", "Hello", "confirmed", 1)])
    own_redis.stop()
    assert (await node.client.get("/messages/12345/1-0")).json()["status"] == "confirmed"
    assert (await node.client.get("/messages/12345/2-0")).status_code == 503
