"""Waiting messages become one call; whatever happens to the call, each of them is answered once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from ingest.group_commit import GroupCommit
from tests.until import scaled, until
from ticketwire.bus.accept import Offer
from ticketwire.errors import Rejected, TicketwireError, Unavailable

Answers = list[str | TicketwireError]


class RecordingBus:
    """Stands for `Acceptor.accept`: records every call and answers it as the test says."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []  # token, texts
        self.answer: Callable[[int, list[str]], Answers] = lambda _, texts: [f"id of {text}" for text in texts]
        self.gate = asyncio.Event()  # cleared: calls do not return
        self.gate.set()
        self.under_way = 0
        self.most_under_way = 0

    async def accept(self, token: str, offers: Sequence[Offer]) -> Answers:
        texts = [offer.fields[0] for offer in offers]
        self.calls.append((token, texts))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.gate.wait()
            return self.answer(len(self.calls), texts)
        finally:
            self.under_way -= 1


def offer(text: str, partition: int = 0) -> Offer:
    return Offer(partition, "", "", [text])


@pytest.fixture
async def bus() -> RecordingBus:
    return RecordingBus()


@asynccontextmanager
async def committing(bus: RecordingBus, **options: float):  # type: ignore[no-untyped-def]
    given = {"lanes": 1, "deadline_s": scaled(5.0), **options}
    async with GroupCommit(bus.accept, **given) as commit:  # type: ignore[arg-type]
        yield commit


async def test_whoever_waits_while_a_call_is_under_way_shares_the_next(bus: RecordingBus) -> None:
    """Three calls' worth of messages take two: the first goes alone, the rest together and in order."""
    bus.gate.clear()
    async with committing(bus) as commit:
        first = commit.submit(offer("a"), 1)
        await until(lambda: bus.calls)
        others = [commit.submit(offer(text), 1) for text in "bcd"]
        bus.gate.set()
        assert await asyncio.gather(first, *others) == ["id of a", "id of b", "id of c", "id of d"]
    assert [texts for _, texts in bus.calls] == [["a"], ["b", "c", "d"]]
    assert bus.calls[0][0] != bus.calls[1][0], "each call has a batch key of its own"


async def test_a_group_is_bounded_in_messages_and_bytes(bus: RecordingBus) -> None:
    """One call never holds Redis for long; a message larger than the bound goes alone, not nowhere."""
    async with committing(bus, group_messages=3, group_bytes=10) as commit:
        sizes = {"a": 1, "b": 1, "c": 1, "d": 8, "e": 8, "f": 99}
        await asyncio.gather(*(commit.submit(offer(text), size) for text, size in sizes.items()))
    assert [texts for _, texts in bus.calls] == [["a", "b", "c"], ["d"], ["e"], ["f"]]


async def test_partitions_with_lanes_of_their_own_do_not_wait_for_each_other(bus: RecordingBus) -> None:
    """On Redis Cluster a call may name one slot only: one partition's stall is not another's."""
    bus.gate.clear()
    async with committing(bus, lanes=2) as commit:
        both = [commit.submit(offer("a", 0), 1), commit.submit(offer("b", 1), 1), commit.submit(offer("c", 0), 1)]
        await until(lambda: bus.most_under_way == 2)
        bus.gate.set()
        await asyncio.gather(*both)
    assert sorted(texts for _, texts in bus.calls) == [["a", "c"], ["b"]]


async def test_one_call_at_a_time_in_a_lane(bus: RecordingBus) -> None:
    """Two at once could store a ticket's messages in the wrong order."""
    async with committing(bus, group_messages=2) as commit:
        await asyncio.gather(*(commit.submit(offer(str(n), n), 1) for n in range(50)))
    assert bus.most_under_way == 1
    assert [text for _, texts in bus.calls for text in texts] == [str(n) for n in range(50)]


async def test_a_retry_has_the_same_batch_key_and_the_same_messages(bus: RecordingBus) -> None:
    """Only so can the script tell a repeat from a new group; late comers must not slip into it."""

    def fail_twice(call: int, texts: list[str]) -> Answers:
        if call <= 2:
            raise Unavailable("Redis: connection reset")
        return [f"id of {text}" for text in texts]

    bus.answer = fail_twice
    bus.gate.clear()
    async with committing(bus) as commit:
        first = [commit.submit(offer(text), 1) for text in "ab"]
        await until(lambda: bus.calls)
        late = commit.submit(offer("c"), 1)
        bus.gate.set()
        assert await asyncio.gather(*first, late) == ["id of a", "id of b", "id of c"]
    (token, texts), *again = bus.calls
    assert texts == ["a", "b"]
    assert again[:2] == [(token, texts)] * 2
    assert again[2][1] == ["c"]


async def test_the_deadline_ends_the_retries(bus: RecordingBus) -> None:
    """503 with the reason, and the warning that the message may have been stored all the same."""

    def fail(_call: int, _texts: list[str]) -> Answers:
        raise Unavailable("Redis: connection refused")

    bus.answer = fail
    async with committing(bus, deadline_s=0.3) as commit:
        with pytest.raises(Unavailable, match=r"not accepted within 300 ms \(Redis: connection refused\)") as caught:
            await commit.submit(offer("a"), 1)
    assert "may be stored" in caught.value.detail
    assert len(bus.calls) > 1


async def test_a_call_that_hangs_ends_at_the_deadline_and_frees_the_lane(bus: RecordingBus) -> None:
    """A stalled Redis must not take those along who come after the stall."""
    bus.gate.clear()
    async with committing(bus, deadline_s=0.2) as commit:
        with pytest.raises(Unavailable):
            await commit.submit(offer("a"), 1)
        bus.gate.set()
        assert await commit.submit(offer("b"), 1) == "id of b"


async def test_each_waits_for_its_own_deadline_only(bus: RecordingBus) -> None:
    """Who waits behind a stalled call is answered in his own time, not after every call before his."""
    bus.gate.clear()
    async with committing(bus, deadline_s=0.3, group_messages=1) as commit:
        loop = asyncio.get_running_loop()
        began = loop.time()
        futures = [commit.submit(offer(text), 1) for text in "abcdefgh"]
        for future in futures:
            with pytest.raises(Unavailable, match="not accepted within 300 ms"):
                await future
        assert loop.time() - began < scaled(1.0), "eight stalled calls one after the other would take 2.4 s"
        bus.gate.set()
        assert await commit.submit(offer("z"), 1) == "id of z"
    sent = [text for _, texts in bus.calls for text in texts]
    assert sent[0] == "a"
    assert sent[-1] == "z"


async def test_a_refused_message_takes_no_other_along(bus: RecordingBus) -> None:
    """A conflict is answered to the one who caused it."""
    bus.answer = lambda _, texts: [
        Rejected("idempotency_conflict", "used for 1-0") if text == "b" else f"id of {text}" for text in texts
    ]
    async with committing(bus) as commit:
        a, b, c = (commit.submit(offer(text), 1) for text in "abc")
        assert (await a, await c) == ("id of a", "id of c")
        with pytest.raises(Rejected, match="used for 1-0"):
            await b


async def test_a_failed_wait_for_durability_is_told_at_once(bus: RecordingBus) -> None:
    """It has waited long enough already; a silent retry would make it look durable later."""

    def fail(_call: int, _texts: list[str]) -> Answers:
        raise Unavailable("no replica confirmed it", code="not_durable")

    bus.answer = fail
    async with committing(bus) as commit:
        with pytest.raises(Unavailable) as caught:
            await commit.submit(offer("a"), 1)
    assert caught.value.code == "not_durable"
    assert len(bus.calls) == 1


async def test_a_client_that_went_away_disturbs_nobody(bus: RecordingBus) -> None:
    """Cancelled while waiting it is left out; cancelled during the call its answer is dropped."""
    bus.gate.clear()
    async with committing(bus) as commit:
        in_flight, kept = commit.submit(offer("a"), 1), commit.submit(offer("b"), 1)
        await until(lambda: bus.calls)
        waiting, after = commit.submit(offer("c"), 1), commit.submit(offer("d"), 1)
        in_flight.cancel()
        waiting.cancel()
        bus.gate.set()
        assert (await kept, await after) == ("id of b", "id of d")
    assert [texts for _, texts in bus.calls] == [["a", "b"], ["d"]]


async def test_a_bug_fails_its_group_and_not_the_next(bus: RecordingBus) -> None:
    """Each sender gets 500 with the cause in the log, and the lane goes on."""

    def stumble(call: int, texts: list[str]) -> Answers:
        if call == 1:
            raise KeyError("a bug")
        return [f"id of {text}" for text in texts]

    bus.answer = stumble
    async with committing(bus) as commit:
        with pytest.raises(RuntimeError) as caught:
            await commit.submit(offer("a"), 1)
        assert isinstance(caught.value.__cause__, KeyError)
        assert await commit.submit(offer("b"), 1) == "id of b"


@pytest.mark.parametrize("bound", [{"max_waiting": 2}, {"max_waiting_bytes": 20}])
async def test_the_queue_is_bounded(bus: RecordingBus, bound: dict[str, float]) -> None:
    """While Redis stalls memory must not grow with every request; who left the queue makes room."""
    bus.gate.clear()
    async with committing(bus, **bound) as commit:
        in_flight = commit.submit(offer("a"), 10)
        await until(lambda: bus.calls)
        waiting = [commit.submit(offer(text), 10) for text in "bc"]
        with pytest.raises(Unavailable, match="2 messages of 20 bytes wait") as caught:
            commit.submit(offer("d"), 10)
        assert caught.value.code == "node_full"
        bus.gate.set()
        await asyncio.gather(in_flight, *waiting)
        assert await commit.submit(offer("e"), 10) == "id of e"


async def test_closing_answers_everyone(bus: RecordingBus) -> None:
    """Nobody is left waiting for ever when the node stops before its requests."""
    bus.gate.clear()
    async with committing(bus) as commit:
        in_flight = commit.submit(offer("a"), 1)
        await until(lambda: bus.calls)
        waiting = commit.submit(offer("b"), 1)
    for future in (in_flight, waiting):
        with pytest.raises(Unavailable) as caught:
            await future
        assert caught.value.code == "draining"
