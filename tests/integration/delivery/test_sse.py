"""Server-sent events and long polls: the same messages in the same order for those without a WebSocket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from delivery.app import drain
from tests.integration.delivery.conftest import StartTier
from tests.integration.delivery.harness import Tier, end
from tests.integration.delivery.hostile import LARGEST
from tests.integration.delivery.v1 import change
from tests.until import scaled, until


@dataclass
class EventSource:
    """What a browser makes of the stream."""

    events: list[tuple[str, str, Any]] = field(default_factory=list)  # name, id, data
    last_id: str = ""
    comments: int = 0
    ended: bool = False

    async def read(self, response: httpx.Response) -> None:
        name, data = "message", ""
        async for line in response.aiter_lines():
            if line.startswith(":"):
                self.comments += 1
            elif line.startswith("event: "):
                name = line[7:]
            elif line.startswith("id: "):
                self.last_id = line[4:]
            elif line.startswith("data: "):
                data = line[6:]
            elif not line:
                if data:
                    self.events.append((name, self.last_id, json.loads(data)))
                name, data = "message", ""
        self.ended = True

    def named(self, name: str) -> list[Any]:
        return [data for found, _, data in self.events if found == name]

    @property
    def texts(self) -> list[str]:
        return [data["message"] for data in self.named("message")]


@asynccontextmanager
async def source(tier: Tier, ticket: str, since: str | None = None) -> AsyncIterator[EventSource]:
    """Open a stream and read it all the time."""
    headers = {"Last-Event-ID": since} if since else {}
    async with (
        httpx.AsyncClient(timeout=None) as client,
        client.stream("GET", f"{tier.http}/sse/{ticket}", headers=headers) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        found = EventSource()
        task = asyncio.create_task(found.read(response))
        try:
            yield found
        finally:
            await end(task)


async def test_a_stream_is_live_and_knows_its_position_from_the_start(tier: Tier) -> None:
    """Even before the first event there is an id to come back with."""
    before = await tier.worker.send("7", "before")
    async with source(tier, "7") as stream:
        await until(lambda: stream.last_id == before.message_id)
        sent = await tier.worker.send("7", "Grüße")
        await until(lambda: stream.events)
        assert stream.events == [
            ("message", sent.message_id,
             {"ticket_id": "7", "message_id": sent.message_id, "sender_id": "1", "message": "Grüße",
              "timestamp": sent.timestamp}),
        ]  # fmt: skip


async def test_last_event_id_resumes(tier: Tier) -> None:
    """Everything after it, then caught_up, then live; over several pages."""
    sent = [tier.worker.make("7", f"m{n}") for n in range(450)]
    await tier.worker.archive_all(sent)
    await tier.worker.confirm(sent[:250], archived=False)
    await tier.worker.confirm(sent[250:], archived=False)
    async with source(tier, "7", sent[4].message_id) as stream:
        await until(lambda: stream.named("caught_up"))
        await tier.worker.send("7", "live")
        await until(lambda: len(stream.texts) == 446)
        assert stream.texts == [*(f"m{n}" for n in range(5, 450)), "live"]
        names = [name for name, _, _ in stream.events]
        assert names.index("caught_up") == 445


async def test_an_unknown_position_is_told_inside_the_stream(tier: Tier) -> None:
    """EventSource shows no response headers to scripts: `reset` is an event, and carries the position to go on from."""
    last = await tier.worker.send("7", "old")
    async with source(tier, "7", "9999999999999-0") as stream:
        await until(lambda: stream.named("reset"))
        assert (stream.last_id, stream.named("reset")) == (last.message_id, [{"position": last.message_id}])
        await tier.worker.send("7", "new")
        await until(lambda: stream.texts == ["new"])


async def test_changes_are_named_events(tier: Tier) -> None:
    """Whoever listens for messages only is not confused by them."""
    async with source(tier, "7") as stream:
        first = await tier.worker.send("7", "first")
        deletion = await change(tier, first, None)
        await until(lambda: stream.named("message_deleted"))
        assert stream.named("message_deleted")[0]["message_id"] == first.message_id
        assert stream.last_id == deletion.message_id
        assert stream.texts == ["first"]


async def test_comments_keep_a_quiet_stream_alive(start_tier: StartTier) -> None:
    """Proxies close what says nothing."""
    tier = await start_tier(ping_seconds=0.2, pong_seconds=0.1)
    async with source(tier, "7") as stream:
        await until(lambda: stream.comments >= 2)


async def test_a_stream_that_nobody_reads_is_cut(start_tier: StartTier) -> None:
    """Bounded memory: the client comes back with its position."""
    tier = await start_tier(send_buffer_bytes=65_536, ack_bytes=65_536)
    reader, writer = await asyncio.open_connection("127.0.0.1", tier.node.port)
    writer.write(b"GET /sse/7 HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"\n\n")
    await until(lambda: len(tier.node.sockets.streams) == 1)
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    async with source(tier, "7") as other:
        sent = 0
        while len(tier.node.sockets.streams) == 2:
            await tier.worker.confirm([tier.worker.make("7", "x" * 7_900) for _ in range(50)], archived=False)
            sent += 50
            assert sent < 5_000, "an unread stream was never cut"
        await until(lambda: len(other.texts) == sent)
    writer.close()


async def test_streams_count_as_sockets_and_end_with_the_node(start_tier: StartTier) -> None:
    """503 with Retry-After above the limit; a node that stops ends them, and long polls too."""
    tier = await start_tier(max_sockets=1)
    async with source(tier, "7") as stream, httpx.AsyncClient() as client:
        await until(lambda: len(tier.node.sockets.streams) == 1)
        refused = await client.get(f"{tier.http}/sse/7")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        await drain(tier.node, scaled(1))
        await until(lambda: stream.ended)
        assert (await client.get(f"{tier.http}/sse/7")).status_code == 503


async def test_wrong_streams_are_refused(tier: Tier) -> None:
    """By HTTP, with a sentence."""
    async with httpx.AsyncClient() as client:
        wrong = await client.get(f"{tier.http}/sse/a:b")
        assert (wrong.status_code, wrong.json()["error"][:19]) == (422, "ticket_id is 'a:b',")
        wrong = await client.get(f"{tier.http}/sse/7", headers={"Last-Event-ID": "yesterday"})
        assert wrong.status_code == 422
        assert (await client.post(f"{tier.http}/sse/7")).status_code == 405


async def test_a_long_poll_waits_for_the_next_message(tier: Tier) -> None:
    """Answered at once when there is something, otherwise as soon as there is, or empty when patience ends."""
    first = await tier.worker.send("7", "first")
    url = f"{tier.http}/tickets/7/messages"
    async with httpx.AsyncClient(timeout=scaled(20)) as client:
        known = await client.get(url, params={"after": "0-0", "wait": 30})
        assert [m["message"] for m in known.json()["messages"]] == ["first"]
        waiting = asyncio.create_task(client.get(url, params={"after": first.message_id, "wait": 30}))
        await until(lambda: len(tier.node.rooms) == 1)
        await tier.worker.send("7", "second")
        assert [m["message"] for m in (await waiting).json()["messages"]] == ["second"]
        empty = await client.get(url, params={"after": "9999999999999-0", "wait": 1})
        assert empty.json() == {"messages": [], "has_more": False}
        wrong = await client.get(url, params={"wait": 5})
        assert (wrong.status_code, wrong.json()["error"][:26]) == (422, "wait is given without afte")
        wrong = await client.get(url, params={"after": "0-0", "wait": "soon"})
        assert wrong.json()["error"] == "wait is 'soon', allowed: 0 to 60 seconds"


async def test_the_end_of_time_is_a_position_like_any_other(tier: Tier) -> None:
    """The largest ids that Redis has, beyond what PostgreSQL can hold: no fault, and what is sent then arrives."""
    sent = await tier.worker.send("7")
    last = f"{LARGEST}-{LARGEST}"
    plain = await tier.client(f"?ticket_id=7&since={last}")
    async with httpx.AsyncClient(base_url=tier.http) as client, source(tier, "7", last) as stream:
        for query, shown in (
            (f"before={last}", [sent.message_id]),
            (f"after={last}", []),
            (f"after={last}&wait=1", []),
        ):
            page = await client.get(f"/tickets/7/messages?{query}")
            assert page.status_code == 200
            assert [message["message_id"] for message in page.json()["messages"]] == shown
        await until(lambda: stream.named("reset"))
        live = await tier.worker.send("7", "live")
        await plain.until(1)
        await until(lambda: stream.texts == ["live"])
    assert plain.ids == [live.message_id]
