"""Frames a client sends, in whatever pieces they arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from delivery.wire import FrameReader, Violation, close_frame, close_reply, text_frame

LIMIT = 100_000


def client() -> ClientProtocol:
    return ClientProtocol(parse_uri("ws://x/"), state=State.OPEN)


messages = st.lists(
    st.one_of(
        st.tuples(st.just("text"), st.text(max_size=300)),
        st.tuples(st.just("binary"), st.binary(max_size=300)),
        st.tuples(st.just("ping"), st.binary(max_size=125)),
        st.tuples(st.just("fragments"), st.lists(st.text(max_size=50), min_size=2, max_size=4)),
        st.tuples(st.just("text"), st.integers(100, 66_000).map(lambda n: "x" * n)),
    ),
    max_size=8,
)


@given(messages, st.lists(st.integers(1, 40_000), max_size=30))
def test_every_message_is_read_however_it_is_cut(given_: list[tuple[str, object]], cuts: list[int]) -> None:
    """What `websockets` sends as a client, cut at any bytes, comes out whole and in order."""
    peer, wanted = client(), []
    for kind, value in given_:
        if kind == "text":
            peer.send_text(str(value).encode())
            wanted.append((Opcode.TEXT, value))
        elif kind == "fragments":
            assert isinstance(value, list)
            peer.send_text(value[0].encode(), fin=False)
            for part in value[1:-1]:
                peer.send_continuation(part.encode(), fin=False)
            peer.send_continuation(value[-1].encode(), fin=True)
            wanted.append((Opcode.TEXT, "".join(value)))
        else:
            assert isinstance(value, bytes)
            (peer.send_binary if kind == "binary" else peer.send_ping)(value)
            wanted.append((Opcode.BINARY if kind == "binary" else Opcode.PING, value))
    data = b"".join(peer.data_to_send())
    reader, found, at = FrameReader(LIMIT), [], 0
    for cut in [*cuts, len(data)]:
        found += reader.feed(data[at : at + cut])
        at += cut
    assert found == wanted
    assert reader._buffer is None  # an idle socket keeps nothing


@given(st.binary(max_size=400))
def test_noise_is_a_violation_or_nothing(data: bytes) -> None:
    """Never another exception, never more kept than was sent."""
    reader = FrameReader(1_000)
    codes = []
    try:
        list(reader.feed(data))
    except Violation as exc:
        codes.append(exc.code)
    assert set(codes) <= {1002, 1007, 1009}
    assert len(reader._buffer or b"") <= len(data)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_text_frames_are_those_of_the_library(size: int) -> None:
    """Written out for speed, so compared with the original at every length's edge."""
    payload = b"x" * size
    assert text_frame(payload) == Frame(Opcode.TEXT, payload).serialize(mask=False)


def test_a_close_reason_is_cut_at_a_character() -> None:
    """A control frame has 125 bytes, and half a character is not UTF-8."""
    frame = close_frame(4004, "ü" * 100)
    assert len(frame) == 2 + 2 + 122
    assert frame[4:].decode() == "ü" * 61


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", 1005),
        (b"\x03\xe8", 1000),
        (b"\x0f\xa0bye", 4000),
        (b"\x03", 1002),
        (b"\x03\xed", 1002),
        (b"\x03\xe8\xff", 1002),
    ],
)
def test_a_clients_close_is_answered(payload: bytes, code: int) -> None:
    """Echoed; what no close frame may carry is a protocol error (RFC 6455 section 7.4.1)."""
    found, answer = close_reply(payload)
    assert found == code
    assert answer == close_frame(code)
