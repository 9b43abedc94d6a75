"""WebSocket frames: those we send, prepared once for all sockets, and those a client sends. No I/O.

Framing itself (RFC 6455 section 5) is done by `websockets`. Its `ServerProtocol` is not kept per socket: an object for
each connection with parser, buffers and state is several KiB, while an idle socket here keeps two empty fields.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator, Sequence

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions import Extension
from websockets.frames import Close, Frame, Opcode

from delivery.deflate import Inflater
from schemas.problems import PROBLEMS

PING = Frame(Opcode.PING, b"").serialize(mask=False)
NORMAL = 1000
PROTOCOL_ERROR = 1002
NO_STATUS = 1005
ABNORMAL = 1006
NOT_UTF8 = 1007
TOO_LARGE = PROBLEMS["too_large"].close or 1009
MAX_REASON_BYTES = 123
FRAGMENT_BYTES = 64  # what a piece of a message counts besides its own: an empty one of 6 bytes costs us 13 us


def text_frame(payload: bytes) -> bytes:
    """Return an unmasked text frame. Written out because it runs for every event (Frame.serialize: four times)."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65_536:
        return struct.pack("!BBH", 0x81, 126, size) + payload
    return struct.pack("!BBQ", 0x81, 127, size) + payload


def data_frame(payload: str | bytes) -> bytes:
    """Return a text frame for str, a binary one for bytes."""
    if isinstance(payload, str):
        return text_frame(payload.encode())
    return Frame(Opcode.BINARY, payload).serialize(mask=False)


def close_frame(code: int, reason: str = "") -> bytes:
    """Return a close frame; a reason that is too long is cut at a character."""
    if code == NO_STATUS:
        return Frame(Opcode.CLOSE, b"").serialize(mask=False)
    reason = reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
    return Frame(Opcode.CLOSE, Close(code, reason).serialize()).serialize(mask=False)


def pong_frame(payload: bytes) -> bytes:
    return Frame(Opcode.PONG, payload).serialize(mask=False)


class Violation(Exception):
    """The client broke the protocol or a limit: close with *code*."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


Received = tuple[Opcode, str | bytes]


class FrameReader:
    """Reads one client's frames: joins fragments, checks masks, sizes and UTF-8."""

    __slots__ = ("_buffer", "_extensions", "_kind", "_limit", "_parts", "_size")

    def __init__(self, max_bytes: int, *, inflates: bool = False) -> None:
        self._limit = max_bytes  # of a message, inflated, its fragments together
        self._extensions = (Inflater(),) if inflates else ()
        self._buffer: bytearray | None = None  # an incomplete frame
        self._parts: list[bytes] | None = None  # of an unfinished message
        self._kind = Opcode.TEXT
        self._size = 0  # of `_parts`

    def feed(self, data: bytes) -> Iterator[Received]:
        """Yield what *data* completes: TEXT with str, BINARY, PING, PONG with bytes, CLOSE with its payload.

        Raises Violation; the reader is of no use after it.
        """
        if self._buffer is not None:
            self._buffer += data
            whole: bytes | bytearray = self._buffer
        else:
            whole = data
        at = 0
        while at < len(whole):
            cursor = _Cursor(whole, at)
            try:
                frame = cursor.frame(self._limit - self._size, self._extensions)
            except EOFError:
                break
            except PayloadTooBig as exc:
                raise Violation(TOO_LARGE, f"message is longer than {self._limit} bytes") from exc
            except ProtocolError as exc:
                raise Violation(PROTOCOL_ERROR, str(exc)) from exc
            at = cursor.at
            received = self._take(frame)
            if received is not None:
                yield received
        if at < len(whole):
            self._buffer = bytearray(whole[at:]) if at or self._buffer is None else self._buffer
        else:
            self._buffer = None

    def _take(self, frame: Frame) -> Received | None:
        kind, payload = frame.opcode, bytes(frame.data)
        if kind in (Opcode.PING, Opcode.PONG, Opcode.CLOSE):
            return kind, payload
        if kind is Opcode.CONT:
            if self._parts is None:
                raise Violation(PROTOCOL_ERROR, "continuation without a beginning")
        elif self._parts is not None:
            raise Violation(PROTOCOL_ERROR, "a message begins before the last one has ended")
        else:
            self._kind = kind
        if not frame.fin:
            if self._parts is None:
                self._parts = []
            self._parts.append(payload)
            self._size += len(payload) + FRAGMENT_BYTES
            if self._size >= self._limit:
                raise Violation(TOO_LARGE, f"message is longer than {self._limit} bytes")
            return None
        if self._parts is not None:
            payload = b"".join((*self._parts, payload))
            self._parts, self._size = None, 0
        if self._kind is Opcode.BINARY:
            return Opcode.BINARY, payload
        try:
            return Opcode.TEXT, payload.decode()
        except UnicodeDecodeError as exc:
            raise Violation(NOT_UTF8, "text is not UTF-8") from exc


class _Cursor:
    """Reads one frame from bytes in hand."""

    def __init__(self, data: bytes | bytearray, at: int) -> None:
        self.data = data
        self.at = at

    def frame(self, max_size: int, extensions: Sequence[Extension]) -> Frame:
        """Raises EOFError when the frame is not complete."""
        parser = Frame.parse(self._exactly, mask=True, max_size=max(max_size, 125), extensions=extensions)
        try:
            next(parser)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        raise AssertionError("the parser waits though nothing makes it")

    def _exactly(self, size: int) -> Generator[None, None, bytes | bytearray]:
        end = self.at + size
        if end > len(self.data):
            raise EOFError
        piece = self.data[self.at : end]
        self.at = end
        return piece
        yield  # never reached; makes this the generator that Frame.parse wants


def close_reply(payload: bytes) -> tuple[int, bytes]:
    """Return the code of a client's close frame and the frame that answers it (RFC 6455 section 5.5.1)."""
    try:
        code = int(Close.parse(payload).code)
    except (ProtocolError, UnicodeDecodeError):
        return PROTOCOL_ERROR, close_frame(PROTOCOL_ERROR)
    return code, close_frame(code)
