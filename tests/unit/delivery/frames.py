"""Frames as clients make them, right and wrong."""

from __future__ import annotations

import struct
import zlib

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
