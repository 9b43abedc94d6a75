"""Bodies are read within a size and a time; answers say what the problem table says."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from ingest.exchange import BodyReader, Gone, refused
from tests.until import scaled
from ticketwire.errors import Rejected, TicketwireError, Unavailable


class Messages:
    """An ASGI `receive` that hands out messages, and then waits for ever."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.left = list(messages)

    async def __call__(self) -> dict[str, Any]:
        if not self.left:
            await asyncio.get_running_loop().create_future()
        return self.left.pop(0)


def chunk(body: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


async def read(messages: Messages, headers: dict[bytes, bytes] | None = None, seconds: float = 5.0) -> bytes:
    return await BodyReader(seconds).read({}, messages, headers or {}, 10)


@pytest.mark.parametrize(
    "messages",
    [[chunk(b"0123456789")], [chunk(b"01234", True), chunk(b"56789")], [chunk(b"0123456789", True), chunk(b"")]],
)
async def test_a_body_of_the_allowed_size_is_read_whole(messages: list[dict[str, Any]]) -> None:
    """In however many pieces it comes."""
    assert await read(Messages(*messages)) == b"0123456789"


@pytest.mark.parametrize(
    "messages",
    [[chunk(b"0123456789a")], [chunk(b"012345", True), chunk(b"67890")], [chunk(b"0" * 9, True)] * 5 + [chunk(b"")]],
)
async def test_a_larger_body_is_refused_without_content_length_too(messages: list[dict[str, Any]]) -> None:
    """It is read to its end and not kept: a client that still sends would see a reset, not the answer."""
    source = Messages(*messages)
    with pytest.raises(Rejected, match="allowed: 10") as caught:
        await read(source)
    assert caught.value.code == "too_large"
    assert not source.left


async def test_a_client_that_asks_first_is_told_first() -> None:
    """With `Expect: 100-continue` nothing has been sent yet, and need not be."""
    source = Messages(chunk(b"", True), chunk(b"0" * 99))
    with pytest.raises(Rejected, match="the body has 99 bytes, allowed: 10"):
        await read(source, {b"content-length": b"99", b"expect": b"100-continue"})
    assert len(source.left) == 1


async def test_a_client_that_goes_away_is_not_answered() -> None:
    """Half a body is no message."""
    with pytest.raises(Gone):
        await read(Messages(chunk(b"half", True), {"type": "http.disconnect"}))


@pytest.mark.parametrize("begun", [[], [chunk(b"half", True)], [chunk(b"0" * 99, True)]])
async def test_a_body_that_does_not_come_is_given_up(begun: list[dict[str, Any]]) -> None:
    """uvicorn would wait for ever; the connection's place is free again after the timeout."""
    with pytest.raises(Rejected) as caught:
        await asyncio.wait_for(read(Messages(*begun), seconds=0.05), scaled(5.0))
    assert caught.value.problem.status == 408
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0, "the task that was woken by a cancellation goes on normally"


async def test_each_body_has_its_own_time() -> None:
    """One slow client neither shortens nor prolongs another's time."""
    reader = BodyReader(scaled(0.2))
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def slow() -> float:
        with pytest.raises(Rejected):
            await reader.read({}, Messages(), {}, 10)
        return loop.time()

    first = asyncio.create_task(slow())
    await asyncio.sleep(scaled(0.1))
    second = asyncio.create_task(slow())
    assert await reader.read({}, Messages(chunk(b"quick")), {}, 10) == b"quick"
    ended = [await first - began, await second - began]
    assert ended[0] >= scaled(0.2)
    assert ended[1] >= scaled(0.3)
    assert await reader.read({}, Messages(chunk(b"later")), {}, 10) == b"later"


async def test_a_cancelled_request_stays_cancelled() -> None:
    """Only its own timeout is turned into an answer, never somebody else's cancellation."""
    reader = BodyReader(scaled(5.0))
    task = asyncio.create_task(reader.read({}, Messages(), {}, 10))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("error", "status", "body", "headers"),
    [
        (Rejected("missing_parameters", "x"), 400, {"error": "Missing parameters"}, {}),
        (Rejected("internal", "x"), 500, {"error": "Internal Server Error"}, {}),
        (Rejected("invalid", "no"), 422, {"error": "no", "code": "invalid"}, {}),
        (Rejected("slow_request", "no"), 408, {"error": "no", "code": "slow_request"}, {"connection": "close"}),
        (Unavailable("full", "backlog", 7), 503, {"error": "full", "code": "backlog"}, {"retry-after": "7"}),
        (Rejected("invalid", "\ud800"), 422, {"error": "\ud800", "code": "invalid"}, {}),
    ],
)
async def test_an_error_becomes_its_answer(
    error: TicketwireError, status: int, body: dict[str, str], headers: dict[str, str]
) -> None:
    """Status and headers come from the problem table and the error's kind."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await refused(send, error)
    start, rest = sent
    got = {name.decode(): value.decode() for name, value in start["headers"]}
    assert (start["status"], json.loads(rest["body"])) == (status, body)
    assert got == {"content-type": "application/json", "content-length": str(len(rest["body"])), **headers}
