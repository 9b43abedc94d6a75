"""The public port against real clients: refusals, limits, slow and dead peers, history, the end."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from delivery.protocol import SocketProtocol
from tests.integration.delivery.conftest import StartTier
from tests.integration.delivery.harness import Tier
from tests.integration.delivery.raw import handshake
from tests.until import scaled, until

ID_RULE = "1 to 128 of A-Z a-z 0-9 . _ @ -"


async def refusal(url: str, **options: object) -> tuple[int, dict[str, str], str]:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(url, **options):  # type: ignore[arg-type]
            pass
    response = refused.value.response
    headers = {name.lower(): value for name, value in response.headers.raw_items()}
    return response.status_code, headers, json.loads(response.body or b"{}").get("error", "")


async def raw(
    tier: Tier, data: bytes = b"", *, receive_buffer: int = 0
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect without a WebSocket library and write *data*; closed with the test."""
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", tier.node.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=max(receive_buffer, 65_536))
    tier.stack.callback(writer.close)
    writer.write(data)
    return reader, writer


def masked(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    head = bytes([(0x80 if fin else 0) | opcode])
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size)
    return head + length + b"\0\0\0\0" + payload


async def close_code(tier: Tier, *frames: bytes) -> int:
    """Open a plain socket, send raw *frames*, and return the code the server closes with."""
    reader, writer = await raw(tier, handshake("/?ticket_id=7"))
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"".join(frames))
    frame = await asyncio.wait_for(reader.readexactly(4), scaled(5))
    assert frame[0] == 0x88
    return int.from_bytes(frame[2:4], "big")


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("?ticket_id=", f"ticket_id is '', allowed: {ID_RULE}"),
        ("?ticket_id=a%20b", f"ticket_id is 'a b', allowed: {ID_RULE}"),
        ("?ticket_id=chat:*", f"ticket_id is 'chat:*', allowed: {ID_RULE}"),
        ("?ticket_id=7%0a", f"ticket_id is '7\\n', allowed: {ID_RULE}"),
        ("?ticket_id=" + "x" * 129, f"ticket_id is '{'x' * 60}', allowed: {ID_RULE}"),
        ("ws/%7B07%7D", f"ticket_id is '{{07}}', allowed: {ID_RULE}"),
        ("?ticket_id=7&since=yesterday", "since: message id is 'yesterday', expected <milliseconds>-<sequence>"),
        ("?ticket_id=7&since=", "since: message id is '', expected <milliseconds>-<sequence>"),
        ("?ticket_id=7&ticket_id=8", "ticket_id is given 2 times, allowed: once"),
        ("", "ticket_id is missing: /?ticket_id=12345 or /ws/12345"),
    ],
)
async def test_a_wrong_value_is_refused_before_the_upgrade(tier: Tier, query: str, sentence: str) -> None:
    """422 with one sentence: what was found and what is allowed."""
    status, _, error = await refusal(f"{tier.url}/{query}")
    assert (status, error) == (422, sentence)


async def test_an_unknown_path_is_404(tier: Tier) -> None:
    """For sockets and for requests."""
    assert (await refusal(f"{tier.url}/socket.io"))[0] == 404
    async with httpx.AsyncClient(base_url=tier.http) as client:
        assert (await client.get("/nothing")).json() == {"error": "there is nothing at '/nothing'"}
        answer = await client.post("/tickets/7/messages")
        assert answer.status_code == 405
        assert answer.json() == {"error": "POST is not possible here, allowed: GET"}


async def test_other_hosts_pages_are_kept_out(start_tier: StartTier) -> None:
    """Same host, or on the list; programs send no Origin."""
    tier = await start_tier(origins="https://chat.example.com http://localhost:3000")
    url = f"{tier.url}/?ticket_id=7"
    status, _, error = await refusal(url, origin="https://evil.example.com")
    assert status == 403
    assert "'https://evil.example.com'" in error
    assert (await refusal(url, origin="null"))[0] == 403
    for origin in (None, f"http://127.0.0.1:{tier.node.port}", "https://chat.example.com", "http://localhost:3000"):
        async with connect(url, origin=origin):  # type: ignore[arg-type]
            pass
    anywhere = await start_tier(origins="*")
    async with connect(f"{anywhere.url}/?ticket_id=7", origin="https://any.example.com"):  # type: ignore[arg-type]
        pass


async def test_a_full_node_refuses_with_503(start_tier: StartTier) -> None:
    """Before the upgrade, with Retry-After; a place that becomes free is given again."""
    tier = await start_tier(max_sockets=2)
    url = f"{tier.url}/?ticket_id=7"
    async with connect(url):
        async with connect(url):
            status, headers, error = await refusal(url)
            assert (status, headers["retry-after"]) == (503, "5")
            assert error == "this node has all 2 sockets it may have"
        await until(lambda: len(tier.node.sockets.wheel) == 1)
        async with connect(url):
            pass


def only_member(tier: Tier) -> SocketProtocol:
    (member,) = tier.node.sockets.wheel.members()
    assert isinstance(member, SocketProtocol)
    return member


async def test_a_socket_that_never_reads_is_closed_alone(start_tier: StartTier) -> None:
    """Its buffer has a bound; fifty others get every message meanwhile."""
    tier = await start_tier(send_mark_bytes=16_384, send_buffer_bytes=131_072, close_seconds=0.2)
    await raw(tier, handshake("/?ticket_id=7"), receive_buffer=4_096)
    await until(lambda: len(tier.node.sockets.wheel) == 1)
    stalled = only_member(tier)
    clients = [await tier.client("?ticket_id=7") for _ in range(50)]
    sent = most = 0
    while not stalled.closing:
        await tier.worker.confirm([tier.worker.make("7", "x" * 7_000) for _ in range(20)])
        sent += 20
        most = max(most, stalled.buffered)
        assert sent < 5_000
    assert 16_384 < most <= 131_072
    await until(lambda: stalled.buffered == 0)  # cut: nothing is kept for it
    for client in clients:
        await client.until(sent)
        assert len(set(client.ids)) == sent


async def test_a_slow_replay_holds_no_page_and_loses_nothing(start_tier: StartTier) -> None:
    """A client that reads its backlog slowly gets all of it; live messages wait their turn."""
    tier = await start_tier(send_mark_bytes=8_192, replay_pages=1)
    sent = [tier.worker.make("7", f"{n}:" + "x" * 7_000) for n in range(600)]
    for start in range(0, 600, 200):
        await tier.worker.confirm(sent[start : start + 200])
    reader, _ = await raw(tier, handshake("/?ticket_id=7&since=0-0"), receive_buffer=32_768)
    await until(lambda: len(tier.node.sockets.wheel) == 1 and only_member(tier).paused)
    slow = only_member(tier)
    # While it stalls the budget of one page is free: another reader gets everything.
    other = await tier.client("?ticket_id=7&since=0-0")
    await other.until(600)
    live = await tier.worker.send("7", "live")
    await other.until(601)
    assert slow.paused
    assert slow.buffered < 8_192 + 65_536 + 8_000  # the mark, one write, one message
    await reader.readuntil(b"\r\n\r\n")
    ids = []
    while len(ids) < 601:
        head = await reader.readexactly(2)
        size = head[1] if head[1] < 126 else int.from_bytes(await reader.readexactly(2), "big")
        ids.append(json.loads(await reader.readexactly(size))["message_id"])
    assert ids == [event.message_id for event in [*sent, live]]


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([masked(2, b"\0\1")], 4501),  # binary in plain mode
        ([masked(1, b"\xff\xfe")], 1007),  # not UTF-8
        ([b"\x81\x02hi"], 1002),  # not masked
        ([masked(3, b"")], 1002),  # unknown opcode
        ([b"\xf1\x80\0\0\0\0"], 1002),  # reserved bits
        ([masked(9, b"x" * 126)], 1002),  # a control frame may carry 125 bytes
        ([masked(0, b"x")], 1002),  # a continuation of nothing
        ([b"\x81\xff" + struct.pack("!Q", 2**40) + b"\0\0\0\0"], 1009),  # a terabyte announced
        ([masked(1, b"x" * 40_000, fin=False), masked(0, b"x" * 40_000)], 1009),  # in fragments
        ([masked(1, b"", fin=False), *[masked(0, b"", fin=False)] * 70_000], 1009),  # in empty ones
        ([masked(8, b"\x03")], 1002),  # half a close code
        ([masked(8, struct.pack("!H", 1001))], 1001),  # an ordinary goodbye is echoed
        ([masked(1, b"hello")] * 61, 4007),  # more text than a plain client may send
    ],
)
async def test_a_client_that_breaks_the_rules_is_closed_with_a_code(tier: Tier, frames: list[bytes], code: int) -> None:
    """Never an exception, never growth without bound."""
    assert await close_code(tier, *frames) == code


async def test_text_of_plain_clients_is_ignored(tier: Tier) -> None:
    """The tutorial's clients may send some; pings are answered, fragments and partial writes are fine."""
    async with connect(f"{tier.url}/?ticket_id=7", ping_interval=None) as client:
        for _ in range(60):
            await client.send("hello")
        await (await client.ping())
        sent = await tier.worker.send("7")
        assert json.loads(await client.recv())["message_id"] == sent.message_id


async def test_a_frame_may_come_byte_by_byte(tier: Tier) -> None:
    """TCP keeps no boundaries."""
    reader, writer = await raw(tier, handshake("/?ticket_id=7"))
    await reader.readuntil(b"\r\n\r\n")
    for byte in masked(1, "grüße".encode()) + masked(9, b"are you there?"):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0)
    assert await asyncio.wait_for(reader.readexactly(16), scaled(5)) == b"\x8a\x0eare you there?"


async def test_a_dead_peer_is_found_by_ping(start_tier: StartTier) -> None:
    """Who answers stays, who does not is closed with 4006."""
    tier = await start_tier(ping_seconds=0.5, pong_seconds=0.2)
    alive = await tier.client("?ticket_id=7")
    dead, _ = await raw(tier, handshake("/?ticket_id=7"))
    await dead.readuntil(b"\r\n\r\n")
    assert await asyncio.wait_for(dead.readexactly(2), scaled(5)) == b"\x89\x00"
    frame = await asyncio.wait_for(dead.readexactly(4), scaled(5))
    assert (frame[0], int.from_bytes(frame[2:4], "big")) == (0x88, 4006)
    await until(lambda: len(tier.node.sockets.wheel) == 1)
    await tier.worker.send("7")
    await alive.until(1)


async def test_half_a_handshake_is_timed_out(start_tier: StartTier) -> None:
    """Silence, half a request, and half of the second request of a kept connection."""
    tier = await start_tier(handshake_seconds=0.3)
    for start in (b"", handshake("/?ticket_id=7")[:60], b"GET /config.json HTTP/1.1\r\nHost: x\r\n\r\nGET / HTT"):
        reader, _ = await raw(tier, start)
        answer = await asyncio.wait_for(reader.read(), scaled(5))
        assert b" 408 " in answer.rpartition(b"HTTP/1.1")[2][:20], start


@pytest.mark.parametrize(
    "request_head",
    [
        handshake("/?ticket_id=7", "X-Long: " + "x" * 20_000),
        handshake("/?ticket_id=7", *(f"X-{n}: {'y' * 100}" for n in range(200))),
        handshake("/?ticket_id=" + "7" * 20_000),
        b"GET / HTTP/1.1\r\nX-Endless: " + b"x" * 20_000,
    ],
)
async def test_an_oversized_head_is_431(tier: Tier, request_head: bytes) -> None:
    """One long header, many headers, a long URL, a header without an end."""
    reader, _ = await raw(tier, request_head)
    answer = await asyncio.wait_for(reader.read(), scaled(5))
    assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (("Version: 13", "Version: 8"), 400),
        (("Key: dGhlIHNhbXBsZSBub25jZQ==", "Key: short"), 400),
        (("GET", "POST"), 405),
        (("HTTP/1.1", "HTTP/1.0"), 505),
        (("GET /", "GET /\x01"), 400),
    ],
)
async def test_a_broken_handshake_is_answered(tier: Tier, change: tuple[str, str], status: int) -> None:
    """And the connection is closed."""
    reader, _ = await raw(tier, handshake("/?ticket_id=7").replace(change[0].encode(), change[1].encode()))
    answer = await asyncio.wait_for(reader.read(), scaled(5))
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())


async def test_history_pages_both_ways(tier: Tier) -> None:
    """Oldest first, bounds exclusive, `has_more` in the direction asked."""
    sent = [tier.worker.make("7", str(n)) for n in range(10)]
    await tier.worker.confirm(sent)
    ids = [event.message_id for event in sent]
    async with httpx.AsyncClient(base_url=tier.http) as client:

        async def page(query: str) -> tuple[list[str], bool]:
            answer = await client.get(f"/tickets/7/messages?{query}")
            assert answer.status_code == 200, answer.text
            body = answer.json()
            return [message["message_id"] for message in body["messages"]], body["has_more"]

        assert await page("") == (ids, False)
        assert await page("limit=3") == (ids[7:], True)
        assert await page(f"limit=3&before={ids[7]}") == (ids[4:7], True)
        assert await page(f"limit=9&before={ids[7]}") == (ids[:7], False)
        assert await page(f"limit=3&after={ids[4]}") == (ids[5:8], True)
        assert await page(f"after={ids[4]}&before={ids[7]}") == (ids[5:7], False)
        assert await page("after=99999999999999-0") == ([], False)
        body = (await client.get("/tickets/7/messages?limit=1")).json()
        assert list(body["messages"][0]) == ["ticket_id", "message_id", "sender_id", "message", "timestamp"]
        for query, sentence in {
            "limit=0": "limit is '0', allowed: 1 to 200",
            "limit=1e3": "limit is '1e3', allowed: 1 to 200",
            "limit=201": "limit is '201', allowed: 1 to 200",
            "after=x": "after: message id is 'x', expected <milliseconds>-<sequence>",
            "limit=1&limit=2": "limit is given 2 times, allowed: once",
        }.items():
            answer = await client.get(f"/tickets/7/messages?{query}")
            assert (answer.status_code, answer.json()) == (422, {"error": sentence})
        assert (await client.get("/tickets/a%20b/messages")).status_code == 422


async def test_history_is_503_while_postgresql_is_away(start_tier: StartTier, own_postgres: object) -> None:
    """With Retry-After."""
    from ticketwire.archive.migrate import upgrade
    from ticketwire.embedded.postgres_server import EmbeddedPostgres

    assert isinstance(own_postgres, EmbeddedPostgres)
    await asyncio.to_thread(upgrade, own_postgres.url)
    tier = await start_tier(postgres_url=own_postgres.url)
    await asyncio.to_thread(own_postgres.stop)
    async with httpx.AsyncClient(base_url=tier.http) as client:
        answer = await client.get("/tickets/7/messages")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "PostgreSQL" in answer.json()["error"]


async def test_a_node_that_stops_sends_its_sockets_elsewhere(start_tier: StartTier) -> None:
    """1012, spread over the window; new handshakes are refused."""
    tier = await start_tier()
    sockets = [await tier.stack.enter_async_context(connect(f"{tier.url}/?ticket_id={n % 5}")) for n in range(40)]
    ended: list[float] = []

    async def watch(client: object) -> int:
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()  # type: ignore[attr-defined]
        ended.append(time.monotonic())
        assert closed.value.rcvd is not None
        return int(closed.value.rcvd.code)

    watching = [asyncio.ensure_future(watch(client)) for client in sockets]
    await tier.node.sockets.drain(0.5)
    assert await asyncio.gather(*watching) == [1012] * 40
    assert max(ended) - min(ended) > 0.4
    status, headers, error = await refusal(f"{tier.url}/?ticket_id=7")
    assert (status, headers["retry-after"], error) == (503, "1", "this node is stopping")
    await until(lambda: len(tier.node.sockets.wheel) == 0)
