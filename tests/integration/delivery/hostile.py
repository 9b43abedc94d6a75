"""Clients that do what no client may, and what each must be told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from websockets.frames import Opcode

from schemas.frames import SUBPROTOCOL
from tests.integration.delivery.raw import Socket, handshake, masked, text

LARGEST = 2**64 - 1  # of each half of a position
_CONNECT = text(type="connect", user="mallory", resume={"quiet": None})


def raw_text(payload: str | bytes) -> bytes:
    return masked(Opcode.TEXT, payload.encode() if isinstance(payload, str) else payload)


@dataclass(frozen=True)
class Attack:
    """What is sent, and what comes of it: error frames, then perhaps the end."""

    name: str
    frames: Callable[[], Sequence[bytes]]
    errors: frozenset[str] = frozenset()
    close: int | None = None  # None: the socket lives
    answer: str = ""  # a frame of this type must come as well
    connects: bool = True  # it introduces itself first, and is in the ticket `quiet`


def _attack(name: str, *frames: bytes, errors: str = "", **more: Any) -> Attack:
    return Attack(name, lambda: frames, frozenset(errors.split()), **more)


def _many(name: str, count: int, make: Callable[[int], bytes], errors: str = "", **more: Any) -> Attack:
    return Attack(name, lambda: [make(n) for n in range(count)], frozenset(errors.split()), **more)


def _subscribe(ticket: str, **more: Any) -> bytes:
    return text(type="subscribe", ticket_id=ticket, **more)


def _no_number(number: str) -> bytes:
    return raw_text(f'{{"type":"history","ticket_id":"quiet","limit":{number}}}')


ATTACKS = [
    # Storms
    _many("subscribes to everything", 2_000, lambda n: _subscribe(f"storm-{n}"), "throttled", close=4007),
    _many(
        "comes and goes", 2_000,
        lambda n: text(type="unsubscribe" if n % 2 else "subscribe", ticket_id="revolving"), "throttled", close=4007,
    ),
    _attack(
        "connects with thousands of tickets",
        text(type="connect", user="mallory", resume={f"{n}": None for n in range(4_000)}),
        errors="too_many_tickets", connects=False, answer="subscribed",
    ),
    _many("asks for history", 500, lambda n: text(type="history", ticket_id="quiet"), "throttled", close=4007),
    _many("types", 2_000, lambda n: text(type="typing", ticket_id="quiet"), "throttled", close=4007),
    _many("comes in and out of sight", 1_000, lambda n: text(
        type="presence", ticket_id="quiet", state="hidden" if n % 2 else "online"), "throttled", close=4007),
    _many("acknowledges nothing new", 2_000, lambda n: text(type="ack", ticket_id="quiet", position="0-0"),
          "throttled", close=4007),
    _many("refreshes", 100, lambda n: text(type="refresh", token="x" * 8_000), "throttled", close=4007),
    _many("talks nonsense", 1_000, lambda n: raw_text("nonsense"), "bad_request throttled", close=4007),
    _attack("pings", *[masked(Opcode.PING, b"x" * 125)] * 900, text(type="history", ticket_id="quiet"),
            answer="history_page"),
    _many("pings for ever", 5_000, lambda n: masked(Opcode.PING if n % 2 else Opcode.PONG, b""), close=4007),
    # Positions
    _attack("acknowledges what was not sent", text(type="ack", ticket_id="quiet", position="9999999999999-0"),
            errors="ack_ahead", close=4501),
    _attack("acknowledges the end of time", text(type="ack", ticket_id="quiet", position=f"{LARGEST}-{LARGEST}"),
            errors="ack_ahead", close=4501),
    _attack("has read the end of time", text(type="read", ticket_id="quiet", position=f"{LARGEST}-{LARGEST}"),
            errors="ack_ahead"),
    _attack("comes from the future", _subscribe("future", since="9999999999999-0"), answer="reset"),
    _attack("comes from the end of time", _subscribe("future", since=f"{LARGEST}-{LARGEST}"), answer="reset"),
    _attack("comes from beyond it", _subscribe("future", since=f"{LARGEST + 1}-0"), errors="invalid"),
    _attack("asks for history of the end of time", text(
        type="history", ticket_id="quiet", after=f"{LARGEST}-{LARGEST}", before=f"{LARGEST}-{LARGEST}"),
        answer="history_page"),
    # Sizes
    _attack("sends a megabyte", raw_text("x" * 1_000_000), close=1009),
    _attack("announces a terabyte", b"\x81\xff" + (2**40).to_bytes(8, "big") + b"\0\0\0\0", close=1009),
    _attack("never ends a message", masked(Opcode.TEXT, b"x", fin=False),
            *[masked(Opcode.CONT, b"x" * 1_000, fin=False)] * 100, close=1009),
    _attack("never ends an empty message", masked(Opcode.TEXT, b"", fin=False),
            *[masked(Opcode.CONT, b"", fin=False)] * 70_000, close=1009),
    _attack("connects with a million characters of token", text(type="connect", user="m", token="x" * 1_000_000),
            connects=False, close=1009),
    # Encodings
    _attack("sends invalid UTF-8", raw_text(b'{"type":"pong\xff"}'), close=1007),
    _attack("sends half a character", raw_text('{"type":"pong","id":"ü'.encode()[:-1]), close=1007),
    _attack("sends binary", masked(Opcode.BINARY, b"{}"), errors="bad_request", close=4501),
    _attack("sends lone surrogates", raw_text(r'{"type":"subscribe","ticket_id":"\ud800"}'), errors="bad_request"),
    _attack("sends a NUL", raw_text(r'{"type":"subscribe","ticket_id":"a\u0000b"}'), errors="invalid"),
    _attack("nests deeply", raw_text('{"type":' * 7_000 + "1" + "}" * 7_000), errors="bad_request"),
    _attack("sends numbers that are none", _no_number("NaN"), _no_number("1e400"), errors="invalid"),
    _attack("sends numbers that are too large", _no_number("9" * 5_000), errors="bad_request"),
    _attack("repeats a key", raw_text('{"type":"subscribe","ticket_id":"a:b","ticket_id":"quiet"}'),
            answer="subscribed"),
    # Order
    _attack("connects twice", _CONNECT, errors="conflict"),
    _attack("begins without connect", _subscribe("quiet"), errors="no_connect", connects=False, close=4502),
    _attack("sends thousands of frames before the answer", _CONNECT, *[text(type="pong")] * 2_000,
            errors="throttled", connects=False, close=4007),
    _attack("does not mask", b"\x81\x02hi", close=1002),
    _attack("uses reserved bits", b"\xf1\x80\0\0\0\0", close=1002),
]  # fmt: skip


class Hostile:
    """One connection of an attacker."""

    streams = False

    def __init__(self, attack: Attack) -> None:
        self.attack = attack
        self.got: list[dict[str, Any]] = []
        self.codes: list[int] = []
        self.ended = False
        self.odd: list[str] = []
        self._socket: Socket | None = None

    async def come(self, port: int) -> None:
        loop, hello = asyncio.get_running_loop(), handshake("/", f"Sec-WebSocket-Protocol: {SUBPROTOCOL}")
        _, made = await loop.create_connection(lambda: Socket(self, hello), "127.0.0.1", port)
        await made.up

    def arrived(self, arrival: Socket) -> None:
        self._socket = arrival
        if self.attack.connects:
            arrival.transport.write(_CONNECT)
        else:
            arrival.transport.writelines(list(self.attack.frames()))

    def take(self, data: bytes, start: int, end: int) -> None:
        self.got.append(json.loads(data[start:end]))
        if self.attack.connects and [frame["type"] for frame in self.got] == ["connected", "subscribed"]:
            assert self._socket is not None
            self._socket.transport.writelines(list(self.attack.frames()))

    def take_chunk(self, data: bytes, start: int, end: int) -> None: ...

    def told_to_close(self, code: int) -> None:
        self.codes.append(code)

    def lost(self, victim: Socket) -> None:
        self.ended = True

    def fault(self, what: str) -> None:
        self.odd.append(what)

    @property
    def errors(self) -> set[str]:
        """The codes of the error frames that came."""
        return {frame["code"] for frame in self.got if frame["type"] == "error"}

    @property
    def answered(self) -> bool:
        """Whether everything it is owed has come."""
        if self.attack.close is not None:
            return self.ended
        kinds = {frame["type"] for frame in self.got} | {frame.get("resume") for frame in self.got}
        return self.ended or (self.attack.errors <= self.errors and self.attack.answer in {*kinds, ""})

    @property
    def verdict(self) -> str:
        """What is wrong with how it was treated; nothing if all is well."""
        wanted = [] if self.attack.close is None else [self.attack.close]
        well = self.codes == wanted and self.errors == self.attack.errors and not self.odd
        return "" if well else str(self)

    def __str__(self) -> str:
        attack = self.attack
        return (
            f"{attack.name}: closed {self.codes}, {attack.close} expected; "
            f"errors {sorted(self.errors)}, {sorted(attack.errors)} expected; {self.odd}"
        )

    def leave(self) -> None:
        if self._socket is not None:
            self._socket.stale = True
            self._socket.transport.abort()
