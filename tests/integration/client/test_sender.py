"""The Python client sends through cut connections, killed servers and closed doors: each message once, in order."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from schemas.keys import Keys
from tests.faults.proxy import Proxy, running_proxy
from tests.faults.stack import PARTITIONS, Tier
from tests.until import until
from ticketwire.client.sender import Sender, Unsent
from ticketwire.errors import Rejected, Unavailable

KEYS = Keys(PARTITIONS)
FULL = 100  # entries on a partition's stream above which ingest closes the door


class Eager(random.Random):
    """Waits as briefly as it may."""

    def uniform(self, a: float, b: float) -> float:
        return min(b, 0.02)


class Ingest:
    """A real ingest process behind a proxy. No worker takes anything off its streams, so they show what was stored."""

    def __init__(self, tier: Tier, proxy: Proxy, redis: Redis) -> None:
        self.tier = tier
        self.proxy = proxy
        self.redis = redis

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.proxy.port}"

    def sender(self) -> Sender:
        return Sender(self.url, "anna", rng=Eager())

    async def stored(self, ticket: str) -> list[tuple[str, str]]:
        """Ids and texts of a ticket's messages, in order."""
        entries = await self.redis.xrange(KEYS.ingest(KEYS.partition_of(ticket)))
        return [(at, fields["message"]) for at, fields in entries if fields["ticket_id"] == ticket]

    async def texts(self, ticket: str) -> list[str]:
        return [text for _, text in await self.stored(ticket)]


@pytest.fixture
async def ingest(own_folder: Path, redis_url: str, postgres_url: str) -> AsyncIterator[Ingest]:
    environment = {
        "TICKETWIRE_REDIS_URL": redis_url,
        "TICKETWIRE_DATABASE_URL": postgres_url,
        "TICKETWIRE_AUTH": "off",
        "TICKETWIRE_PARTITIONS": str(PARTITIONS),
        "INGEST_MAX_BACKLOG": str(FULL),
        "INGEST_LOW_BACKLOG": "5",
        "INGEST_MEASURE_MS": "50",
    }
    tier = Tier("ingest", "ingest", environment, own_folder)
    async with (
        running_proxy("127.0.0.1", tier.port) as proxy,
        Redis.from_url(redis_url, decode_responses=True) as redis,
    ):
        tier.start()
        try:
            await tier.ready()
            yield Ingest(tier, proxy, redis)
        finally:
            tier.end()


async def test_a_message_whose_reply_was_lost_is_sent_again_and_stored_once(ingest: Ingest) -> None:
    """The same key, so the same id: the one it was stored under the first time."""
    sender = ingest.sender()
    ingest.proxy.swallow_replies()
    sending = asyncio.create_task(sender.send("7", "hello"))
    await until(lambda: ingest.proxy.swallowed_bytes > 0)
    ((first, _),) = await ingest.stored("7")
    assert [unsent.message for unsent in sender.outbox] == ["hello"]  # nobody has told us that it is accepted
    ingest.proxy.stop_swallowing()
    assert await sending == first
    assert await ingest.stored("7") == [(first, "hello")]
    assert sender.outbox == []
    await sender.close()


async def test_connections_cut_in_the_midst_double_lose_and_reorder_nothing(ingest: Ingest) -> None:
    """Ninety messages to three tickets at once, and a cut after every fifth that was accepted."""
    sender = ingest.sender()
    texts = {ticket: [f"{ticket} {n}" for n in range(30)] for ticket in ("7", "8", "9")}
    accepted: list[str] = []

    async def send(ticket: str, text: str) -> tuple[str, str]:
        found = await sender.send(ticket, text)
        accepted.append(found)
        if len(accepted) % 5 == 0:
            ingest.proxy.cut()
        return found, text

    for ticket, sent in zip(
        texts, await asyncio.gather(*(asyncio.gather(*(send(t, m) for m in texts[t])) for t in texts)), strict=True
    ):
        assert await ingest.stored(ticket) == sent
        assert [text for _, text in sent] == texts[ticket]
    await sender.close()


async def test_the_outbox_keeps_its_order_while_the_server_is_away_and_drains_when_it_is_back(ingest: Ingest) -> None:
    """Killed and started again; what was called first in a ticket is stored first."""
    sender = ingest.sender()
    await sender.send("7", "before")
    ingest.tier.kill()
    calls = [(ticket, f"{ticket} {n}") for n in range(10) for ticket in ("7", "8")]
    sending = [asyncio.create_task(sender.send(*call)) for call in calls]
    await until(lambda: len(sender.outbox) == len(calls))
    assert [(unsent.ticket_id, unsent.message) for unsent in sender.outbox] == calls
    ingest.tier.start()
    await asyncio.gather(*sending)
    assert sender.outbox == []
    assert await ingest.texts("7") == ["before", *(text for ticket, text in calls if ticket == "7")]
    assert await ingest.texts("8") == [text for ticket, text in calls if ticket == "8"]
    await sender.close()


@pytest.mark.parametrize(
    ("ticket", "text", "code", "sentence"),
    [
        ("7", " ", "missing_parameters", "Missing parameters"),
        ("a:b", "hello", "invalid", "ticket_id"),
        ("7", "x" * 8_001, "invalid", "message has 8,001"),
    ],
)
async def test_a_message_that_is_refused_is_told_to_its_caller_and_not_sent_again(
    ingest: Ingest, ticket: str, text: str, code: str, sentence: str
) -> None:
    """With the server's code and sentence; the next message of the ticket does not wait for it."""
    sender = ingest.sender()
    refused, good = await asyncio.gather(sender.send(ticket, text), sender.send("7", "good"), return_exceptions=True)
    assert isinstance(refused, Rejected)
    assert refused.code == code
    assert sentence in refused.detail
    assert await ingest.stored("7") == [(good, "good")]
    assert await ingest.tier.metric(f'ingest_refused_total{{code="{code}"}}') == 1
    assert sender.outbox == []
    await sender.close()


async def test_a_key_that_was_used_for_another_message_is_told_to_the_caller(ingest: Ingest) -> None:
    """409; the first message stays."""
    sender = ingest.sender()
    await sender.send("7", "one", "my-key")
    with pytest.raises(Rejected, match="idempotency_conflict"):
        await sender.send("7", "two", "my-key")
    assert await ingest.texts("7") == ["one"]
    await sender.close()


async def test_a_closed_door_is_waited_for(ingest: Ingest) -> None:
    """503 while the workers are too far behind: nothing is lost by waiting as long as the server asks."""
    sender = ingest.sender()
    stream = KEYS.ingest(KEYS.partition_of("7"))
    for number in range(FULL + 1):
        await ingest.redis.xadd(stream, {"ticket_id": "7", "sender_id": "1", "message": f"old {number}"})

    async def door_is_closed() -> bool:
        return await ingest.tier.metric("ingest_closed_partitions") == 1

    await until(door_is_closed)
    sending = asyncio.create_task(sender.send("7", "new"))

    async def refused() -> bool:
        return await ingest.tier.metric('ingest_refused_total{code="backlog"}') >= 1

    await until(refused)
    assert len(sender.outbox) == 1
    await ingest.redis.xtrim(stream, maxlen=0, approximate=False)
    sent = await sending
    assert await ingest.stored("7") == [(sent, "new")]
    await sender.close()


async def test_closing_with_unsent_messages_says_so(ingest: Ingest, caplog: pytest.LogCaptureFixture) -> None:
    """Each call fails with the key under which it may be sent again; `close` returns them all; the log has a line."""
    sender = ingest.sender()
    ingest.proxy.refuse = True
    ingest.proxy.cut()
    sending = [asyncio.create_task(sender.send("7", text, f"key-{text}")) for text in ("one", "two")]
    await until(lambda: len(sender.outbox) == 2)
    with caplog.at_level(logging.WARNING, "ticketwire.client.sender"):
        assert await sender.close() == [Unsent("7", "one", "key-one"), Unsent("7", "two", "key-two")]
    assert [record.message for record in caplog.records][-1:] == ["closed with unsent messages"]
    for text, result in zip(("one", "two"), await asyncio.gather(*sending, return_exceptions=True), strict=True):
        assert isinstance(result, Unavailable)
        assert f"key-{text}" in result.detail
    with pytest.raises(Unavailable, match="closed"):
        await sender.send("7", "three")
    assert sender.outbox == []
    assert await sender.close() == []


async def test_a_message_given_up_in_the_midst_stays_one_message(ingest: Ingest) -> None:
    """It was stored and its reply lost, then the client was closed: the next client sends it again under its key."""
    first, second = ingest.sender(), ingest.sender()
    ingest.proxy.swallow_replies()
    sending = asyncio.create_task(first.send("7", "hello", "k"))
    await until(lambda: ingest.proxy.swallowed_bytes > 0)
    (unsent,) = await first.close()
    with pytest.raises(Unavailable):
        await sending
    ingest.proxy.stop_swallowing()
    sent = await second.send(unsent.ticket_id, unsent.message, unsent.client_message_id)
    assert await ingest.stored("7") == [(sent, "hello")]
    await second.close()


async def test_a_cancelled_call_makes_way_for_the_next(ingest: Ingest) -> None:
    """The ticket's turn passes on; cancelled is cancelled, not Unavailable."""
    sender = ingest.sender()
    ingest.proxy.refuse = True
    one, two = (asyncio.create_task(sender.send("7", text)) for text in ("one", "two"))
    await until(lambda: len(sender.outbox) == 2)
    one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one
    assert [unsent.message for unsent in sender.outbox] == ["two"]
    ingest.proxy.refuse = False
    await two
    assert await ingest.texts("7") == ["two"]
    await sender.close()
