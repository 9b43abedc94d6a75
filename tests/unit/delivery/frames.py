"""Frames as clients make them, right and wrong, and those of a server taken apart."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator

from websockets.frames import Opcode

TAIL = b"\x00\x00\xff\xff"


def masked(
    payload: bytes, kind: Opcode = Opcode.TEXT, *, fin: bool = True, rsv1: bool = False, rsv2: bool = False
) -> bytes:
    """A frame of a client, masked with zeros."""
    first = kind | (0x80 if fin else 0) | (0x40 if rsv1 else 0) | (0x20 if rsv2 else 0)
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", first, 0x80 | size)
    elif size < 65_536:
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, size)
    return head + b"\0\0\0\0" + payload


def compressed(
    data: bytes, *, window: int = 15, level: int = 6, strategy: int = zlib.Z_DEFAULT_STRATEGY, final: bool = False
) -> bytes:
    """The payload of a compressed message, ended by a flush or (RFC 7692, 7.2.3.4) by a final block."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -window, 8, strategy)
    body = compressor.compress(data)
    if final:
        return body + compressor.flush(zlib.Z_FINISH) + b"\x00"
    return (body + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


def taken_apart(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The first byte and the payload of each frame that a server wrote; each must be whole."""
    while data:
        size, start = data[1], 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, start = int.from_bytes(data[2 : 2 + width], "big"), 2 + width
        assert len(data) >= start + size
        yield data[0], data[start : start + size]
        data = data[start + size :]


class Reader:
    """A plain reader, which keeps each write as the numbers of its messages."""

    def __init__(self) -> None:
        self.writes: list[list[int]] = []

    def write(self, data: bytes) -> None:
        numbers = []
        for first, payload in taken_apart(data):
            assert first == 0x81
            numbers.append(json.loads(payload)["timestamp"])
        self.writes.append(numbers)

    @property
    def got(self) -> list[int]:
        return [number for write in self.writes for number in write]
