"""permessage-deflate (RFC 7692) without contexts, so a message compressed once is right for every socket. No I/O.

With a context each socket would need a compressor of its own (up to 256 KiB) and each message be compressed for each
socket. Without one a socket costs nothing while it is idle, in either direction.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

from websockets.exceptions import NegotiationError, PayloadTooBig, ProtocolError
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.typing import ExtensionParameter

# Setting a compressor up is most of its cost for a chat message: 5 microseconds with this window and table, 120 with
# zlib's own; 8 KB of text become 2,342 bytes instead of 2,260, a line of it the same.
WINDOW_BITS = 11
_MEMORY_LEVEL = 4
_LEVEL = 6
FROM_BYTES = 128  # shorter payloads are sent as they are: little to gain
_TAIL = b"\x00\x00\xff\xff"  # of a flushed block; not sent (RFC 7692, 7.2.1)
_RSV1 = 0x40


class Offers(ServerPerMessageDeflateFactory):
    """Accepts offers that leave us our window; others are declined, and the socket is an ordinary one."""

    def __init__(self) -> None:
        super().__init__(server_no_context_takeover=True, client_no_context_takeover=True)

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], PerMessageDeflate]:
        response, extension = super().process_request_params(params, accepted_extensions)
        if extension.local_max_window_bits < WINDOW_BITS:
            raise NegotiationError(f"server_max_window_bits is {extension.local_max_window_bits}, {WINDOW_BITS} needed")
        return response, extension


def deflated(frame: bytes) -> bytes:
    """Return a text frame compressed; as it is where that would not make it shorter."""
    size, start = frame[1], 2
    if size == 126:
        (size,), start = struct.unpack_from("!H", frame, 2), 4
    elif size == 127:
        (size,), start = struct.unpack_from("!Q", frame, 2), 10
    if size < FROM_BYTES:
        return frame
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -WINDOW_BITS, _MEMORY_LEVEL)
    data = compressor.compress(memoryview(frame)[start:]) + compressor.flush(zlib.Z_SYNC_FLUSH)
    size = len(data) - len(_TAIL)
    first = frame[0] | _RSV1
    if size < 126:
        head = bytes((first, size))
    elif size < 65_536:
        head = struct.pack("!BBH", first, 126, size)
    else:
        head = struct.pack("!BBQ", first, 127, size)
    made = head + data[: -len(_TAIL)]
    return made if len(made) < len(frame) else frame


class Inflater(Extension):
    """Inflates what one client sends, as `Frame.parse` asks for it. Idle it holds nothing."""

    __slots__ = ("_stream",)
    name = ServerPerMessageDeflateFactory.name

    def __init__(self) -> None:
        self._stream: Any = None  # of a compressed message of which fragments are still to come

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        """Return *frame* with its payload inflated, which has at most *max_size* bytes.

        Raises PayloadTooBig and ProtocolError.
        """
        # A set RSV1 that means nothing (in a control frame or a continuation) is left for the caller to refuse.
        if frame.opcode is Opcode.CONT:
            if self._stream is None or frame.rsv1:
                return frame
        elif frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            if not frame.rsv1:
                return frame
            self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
        else:
            return frame
        assert max_size is not None, "without a bound a few bytes could fill the memory"
        stream = self._stream
        try:
            # One byte more than allowed tells an end from a limit; nothing more is ever inflated.
            data = stream.decompress(bytes(frame.data) + (_TAIL if frame.fin else b""), max_size + 1)
        except zlib.error as exc:
            raise ProtocolError("a compressed message cannot be inflated") from exc
        if len(data) > max_size:
            raise PayloadTooBig(None, max_size)
        # After a final block (7.2.3.4) nothing but the empty one may follow.
        if stream.unused_data.removeprefix(b"\x00") not in (b"", _TAIL):
            raise ProtocolError("data after the end of a compressed message")
        if frame.fin:
            self._stream = None
        return Frame(frame.opcode, data, frame.fin, False, frame.rsv2, frame.rsv3)
