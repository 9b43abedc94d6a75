"""Compressed frames: ours, made once for all sockets, and those that clients send, however they were made."""

from __future__ import annotations

import os
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import NegotiationError
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from delivery.deflate import FROM_BYTES, WINDOW_BITS, Offers, deflated
from delivery.wire import FrameReader, Violation, text_frame
from tests.unit.delivery.frames import TAIL, compressed, masked, taken_apart

LIMIT = 10_000


def payload_of(frame: bytes) -> tuple[bool, bytes]:
    """Take a frame of a server apart: whether it is compressed, and its payload."""
    ((first, payload),) = taken_apart(frame)
    return bool(first & 0x40), payload


texts = st.one_of(
    st.text(max_size=600),
    st.tuples(st.text(min_size=1, max_size=20), st.integers(1, 10_000)).map(lambda pair: pair[0] * pair[1]),
)


@given(texts)
def test_what_we_compress_any_client_reads(text: str) -> None:
    """With the window that was negotiated and no context; never longer than it was, and short frames as they are."""
    plain = text_frame(text.encode())
    frame = deflated(plain)
    assert len(frame) <= len(plain)
    was_compressed, payload = payload_of(frame)
    if len(text.encode()) < FROM_BYTES:
        assert frame == plain
    if was_compressed:
        extension = PerMessageDeflate(True, True, WINDOW_BITS, 15)
        payload = bytes(extension.decode(Frame(Opcode.TEXT, payload, rsv1=True)).data)
    assert payload == text.encode()


def test_noise_is_sent_as_it_is() -> None:
    """Where compression would only add."""
    frame = text_frame(os.urandom(1_000))
    assert deflated(frame) is frame


@given(
    texts.filter(lambda text: len(text.encode()) < LIMIT // 2),  # each fragment counts for something too
    st.integers(9, 15),
    st.integers(0, 9),
    st.sampled_from((zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY)),
    st.booleans(),
    st.lists(st.integers(0, 300), max_size=5),
)
def test_what_clients_compress_is_read(
    text: str, window: int, level: int, strategy: int, final: bool, cuts: list[int]
) -> None:
    """Any window, level and strategy, ended by a flush or by a final block, in fragments, between ordinary frames."""
    body = compressed(text.encode(), window=window, level=level, strategy=strategy, final=final)
    data, first = masked(b"before"), True
    for cut in cuts:
        data += masked(body[:cut], Opcode.TEXT if first else Opcode.CONT, fin=False, rsv1=first)
        body, first = body[cut:], False
    data += masked(body, Opcode.TEXT if first else Opcode.CONT, rsv1=first) + masked(b"after")
    reader = FrameReader(LIMIT, inflates=True)
    assert list(reader.feed(data)) == [(Opcode.TEXT, "before"), (Opcode.TEXT, text), (Opcode.TEXT, "after")]


def test_a_bomb_is_refused_without_being_inflated() -> None:
    """20 KB that would be 20 MB, whole and in fragments; what is inflated stays near the limit."""
    bomb = compressed(b"x" * 20_000_000)
    assert len(bomb) < 25_000
    whole = masked(bomb, rsv1=True)
    pieces = [bomb[at : at + 100] for at in range(0, len(bomb), 100)]
    fragments = masked(pieces[0], fin=False, rsv1=True) + b"".join(
        masked(piece, Opcode.CONT, fin=False) for piece in pieces[1:]
    )
    for data in (whole, fragments):
        reader = FrameReader(100_000, inflates=True)
        tracemalloc.start()
        with pytest.raises(Violation) as refused:
            list(reader.feed(data))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert refused.value.code == 1009
        assert peak < 1_000_000


@pytest.mark.parametrize(("size", "passes"), [(LIMIT, True), (LIMIT + 1, False)])
def test_the_limit_is_of_the_inflated_message(size: int, passes: bool) -> None:
    """To the byte."""
    reader = FrameReader(LIMIT, inflates=True)
    data = masked(compressed(b"x" * size), rsv1=True)
    if passes:
        assert list(reader.feed(data)) == [(Opcode.TEXT, "x" * size)]
    else:
        with pytest.raises(Violation) as refused:
            list(reader.feed(data))
        assert refused.value.code == 1009


good = compressed(b"hello " * 20)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (masked(b"\xff\xff\xff\xff", rsv1=True), 1002),
        (masked(compressed(b"hello", final=True) + b"more", rsv1=True), 1002),
        (masked(compressed(b"\xff\xfe"), rsv1=True), 1007),
        (masked(good[:9], fin=False, rsv1=True) + masked(good[9:], Opcode.CONT, rsv1=True), 1002),
        (masked(good[:9], fin=False, rsv1=True) + masked(good, rsv1=True), 1002),
        (masked(b"x", Opcode.PING, rsv1=True), 1002),
        (masked(b"x", rsv2=True), 1002),
    ],
    ids=["noise", "after the end", "not UTF-8", "RSV1 again", "two at once", "ping", "RSV2"],
)
def test_what_is_no_compressed_message_is_a_violation(data: bytes, code: int) -> None:
    """With the close code of RFC 6455, whatever is wrong with it."""
    with pytest.raises(Violation) as wrong:
        list(FrameReader(LIMIT, inflates=True).feed(data))
    assert wrong.value.code == code


def test_without_negotiation_a_compressed_frame_is_a_violation() -> None:
    """RSV1 means nothing then."""
    with pytest.raises(Violation) as wrong:
        list(FrameReader(LIMIT).feed(masked(good, rsv1=True)))
    assert wrong.value.code == 1002


@given(st.binary(max_size=300), st.booleans(), st.integers(0, 100))
def test_noise_in_compressed_frames_is_a_violation_or_a_message(noise: bytes, after: bool, cut: int) -> None:
    """Never another exception, never more than the limit."""
    body = good[:cut] + noise if after else noise
    codes, found = [], []
    try:
        found = list(FrameReader(LIMIT, inflates=True).feed(masked(body, rsv1=True)))
    except Violation as exc:
        codes.append(exc.code)
    assert set(codes) <= {1002, 1007, 1009}
    assert all(len(payload) <= LIMIT for _, payload in found)


@pytest.mark.parametrize(
    ("params", "answer"),
    [
        ([], {}),
        ([("client_max_window_bits", None)], {}),
        ([("client_max_window_bits", "9")], {"client_max_window_bits": "9"}),
        ([("server_max_window_bits", "15")], {"server_max_window_bits": "15"}),
        ([("server_max_window_bits", str(WINDOW_BITS))], {"server_max_window_bits": str(WINDOW_BITS)}),
        ([("server_no_context_takeover", None), ("client_no_context_takeover", None)], {}),
        ([("server_max_window_bits", str(WINDOW_BITS - 1))], None),
        ([("server_max_window_bits", "8")], None),
        ([("server_max_window_bits", "16")], None),
        ([("server_max_window_bits", None)], None),
        ([("client_max_window_bits", "7")], None),
        ([("server_no_context_takeover", "1")], None),
        ([("server_no_context_takeover", None)] * 2, None),
        ([("x_best_compression", None)], None),
    ],
)
def test_offers_are_accepted_or_declined(params: list[tuple[str, str | None]], answer: dict[str, str] | None) -> None:
    """Both sides without context; a smaller window than ours, and what RFC 7692 does not know, is declined."""
    if answer is None:
        with pytest.raises(NegotiationError):
            Offers().process_request_params(params, [])
        return
    response, extension = Offers().process_request_params(params, [])
    assert dict(response) == {"server_no_context_takeover": None, "client_no_context_takeover": None, **answer}
    assert extension.local_no_context_takeover
    assert extension.remote_no_context_takeover


def test_the_tail_is_what_a_flush_ends_with() -> None:
    """So that leaving it out and putting it back are the same (RFC 7692, 7.2.1)."""
    compressor = zlib.compressobj(wbits=-15)
    assert (compressor.compress(b"x") + compressor.flush(zlib.Z_SYNC_FLUSH)).endswith(TAIL)
