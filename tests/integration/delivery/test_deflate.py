"""permessage-deflate on a running node: asked for, declined, compressed once, and abused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Opcode

from delivery import frames, metrics
from tests.integration.delivery.conftest import StartTier
from tests.integration.delivery.harness import Tier
from tests.integration.delivery.raw import handshake
from tests.integration.delivery.v1 import open_v1, v1
from tests.unit.delivery.frames import compressed, masked
from tests.until import until

LONG = "Where is my parcel? " * 60
BOMB = compressed(b"x" * 10_000_000)


@pytest.fixture
async def deflating(start_tier: StartTier) -> Tier:
    return await start_tier(deflate=True)


@pytest.fixture
def compressions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of event frames that were compressed, one for each time."""
    sizes: list[int] = []
    original = frames.deflated

    def counting(frame: bytes) -> bytes:
        sizes.append(len(frame))
        return original(frame)

    monkeypatch.setattr(frames, "deflated", counting)
    return sizes


def negotiated(socket: Any) -> bool:
    return bool(socket.protocol.extensions)


async def opened(tier: Tier, offer: str) -> tuple[str, asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a plain socket with an offer of one's own; return what was answered to it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", tier.node.port)
    writer.write(handshake("/?ticket_id=7", f"Sec-WebSocket-Extensions: {offer}"))
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    lines = dict(line.split(": ", 1) for line in head.strip().split("\r\n")[1:])
    assert head.startswith("HTTP/1.1 101"), head
    return lines.get("Sec-WebSocket-Extensions", ""), reader, writer


async def close_code(reader: asyncio.StreamReader) -> int:
    head = await reader.readexactly(2)
    assert head[0] == 0x88
    return int.from_bytes((await reader.readexactly(head[1]))[:2], "big")


async def test_all_kinds_of_sockets_get_the_same_messages(deflating: Tier, compressions: list[int]) -> None:
    """Plain and v1, compressed and not, long and short, replayed and live; a live event is compressed once a kind."""
    tier = deflating
    old = [await tier.worker.send("7", text) for text in (LONG, "short", "grüße " * 100)]
    packed = [await tier.client("?ticket_id=7&since=0-0", compression="deflate") for _ in range(3)]
    loose = [await tier.client("?ticket_id=7&since=0-0", compression=None) for _ in range(2)]
    sessions = [await open_v1(tier, compression="deflate") for _ in range(3)] + [await open_v1(tier, compression=None)]
    for number, session in enumerate(sessions):
        await session.say(type="connect", user=f"u{number}", resume={"7": "0-0"})
        await session.one("caught_up")
    assert [negotiated(client.socket) for client in [*packed, *loose]] == [True] * 3 + [False] * 2
    assert [negotiated(session.socket) for session in sessions] == [True] * 3 + [False]
    for client in [*packed, *loose]:
        await client.until(3)
    replayed = len(compressions)
    live = await tier.worker.send("7", LONG + "live")
    ids = [event.message_id for event in [*old, live]]
    for client in [*packed, *loose]:
        await client.until(4)
        assert client.ids == ids
        assert client.texts[0] == LONG
        assert client.texts[3] == LONG + "live"
    for session in sessions:
        await session.until_events(4)
        assert session.ids() == ids
        assert session.in_order("7")
    assert len(compressions) == replayed + 2  # one for plain, one for v1


async def test_fewer_bytes_are_written(deflating: Tier) -> None:
    """Which is what it is for: the metric counts what goes to sockets."""
    tier = deflating
    sizes = []
    for compression in ("deflate", None):
        client = await tier.client("?ticket_id=7", compression=compression)
        before = metrics.BYTES.value
        await tier.worker.send("7", LONG)
        await client.until(1)
        await until(lambda before=before: metrics.BYTES.value > before)
        sizes.append(metrics.BYTES.value - before)
        await client.socket.close()
        await until(lambda: len(tier.node.sockets.wheel) == 0)
    assert sizes[0] < sizes[1] / 4


async def test_authors_and_large_answers(deflating: Tier) -> None:
    """The author's own frames, a page of history and an acknowledgement, compressed in both directions."""
    tier = deflating
    events = [await tier.worker.send("7", f"{LONG}{number}") for number in range(5)]
    session = await v1(tier, "anna")
    assert negotiated(session.socket)
    await session.subscribe("7")
    await session.say(type="history", ticket_id="7", limit=5, id=1)
    page = await session.one("history_page")
    assert [message["message"] for message in page["messages"]] == [event.message for event in events]
    own = tier.worker.make("7", LONG, "anna")._replace(client_message_id="c1")
    await tier.worker.confirm([own])
    assert (await session.one("message"))["client_message_id"] == "c1"
    await session.say(type="unsubscribe", ticket_id="7", id=2)
    await session.one("unsubscribed")


async def test_it_is_off_unless_set(tier: Tier) -> None:
    """An offer is declined, and the socket works."""
    client = await tier.client("?ticket_id=7", compression="deflate")
    assert not negotiated(client.socket)
    await tier.worker.send("7", LONG)
    await client.until(1)


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ("permessage-deflate", "permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
        (
            "permessage-deflate; client_max_window_bits=9; server_max_window_bits=12",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
            "server_max_window_bits=12; client_max_window_bits=9",
        ),
        ("permessage-deflate; server_max_window_bits=9", ""),
        ("permessage-deflate; x_level=9", ""),
        ("x-webkit-deflate-frame", ""),
        (
            "permessage-deflate; server_max_window_bits=8, permessage-deflate",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        ),
    ],
)
async def test_what_is_not_supported_is_declined_and_never_fails(deflating: Tier, offer: str, answer: str) -> None:
    """The first offer that leaves us our window is taken; the socket gets its messages either way."""
    found, reader, writer = await opened(deflating, offer)
    assert found == answer
    await deflating.worker.send("7", LONG)
    first = (await reader.readexactly(1))[0]
    assert first == (0xC1 if answer else 0x81)
    writer.close()


@pytest.mark.parametrize("bits", [9, 12, 15])
async def test_any_window_of_the_client_is_read(deflating: Tier, bits: int) -> None:
    """A client compresses with the window it likes; ours is never larger than what it allows us."""
    extension = ClientPerMessageDeflateFactory(client_max_window_bits=bits, server_max_window_bits=max(bits, 11))
    session = await open_v1(deflating, extensions=[extension], compression=None)
    assert negotiated(session.socket)
    await session.say(type="connect", user="anna", client=LONG[:60])
    await session.one("connected")
    await session.subscribe("7")
    await deflating.worker.send("7", LONG)
    assert (await session.one("message"))["message"] == LONG


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (masked(b"\xff\xff\xff\xff", rsv1=True), 1002),
        (masked(BOMB, rsv1=True), 1009),
        (masked(compressed(b"\xff\xfe\xfd"), rsv1=True), 1007),
        (masked(BOMB[:2_000], fin=False, rsv1=True) + masked(BOMB[2_000:], Opcode.CONT), 1009),
    ],
    ids=["noise", "bomb", "not UTF-8", "bomb in two"],
)
async def test_abuse_closes_the_socket_and_no_other(deflating: Tier, frame: bytes, code: int) -> None:
    """With the same codes as without compression."""
    neighbour = await deflating.client("?ticket_id=7", compression="deflate")
    _, reader, writer = await opened(deflating, "permessage-deflate")
    writer.write(frame)
    assert await close_code(reader) == code
    assert await reader.read() == b""
    await deflating.worker.send("7", LONG)
    await neighbour.until(1)
    writer.close()


async def test_a_compressed_frame_that_was_not_negotiated_closes_with_1002(tier: Tier) -> None:
    """RFC 6455 section 5.2: the bit is reserved."""
    answer, reader, writer = await opened(tier, "permessage-deflate")
    assert answer == ""
    writer.write(masked(compressed(b"hello"), rsv1=True))
    assert await close_code(reader) == 1002
    writer.close()
