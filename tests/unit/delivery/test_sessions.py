"""Any sequence of frames and events, through session, client, seat, ledger, room and replay, without a server.

The log is a list, the socket keeps what it is written. Invariants: nothing raises, no event is lost or out of order,
the window holds, and every frame sent is one of the protocol.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, cast

from hypothesis import example, given, settings
from hypothesis import strategies as st

from delivery.access import Access
from delivery.backlog import Known, Page
from delivery.client import Client
from delivery.clients import NodeLoad
from delivery.events import Event, read_event
from delivery.fanout import Ticker
from delivery.ledger import Ledger, Outstanding
from delivery.marks import Marks
from delivery.pacing import Pace
from delivery.presence import Presence
from delivery.replay import Replay
from delivery.room import Room
from delivery.services import Services
from delivery.session import Fail, Send, Session, State
from delivery.settings import DeliverySettings
from delivery.typists import Typists
from schemas.events import Confirmed, event_tail
from schemas.frames import ANSWER
from schemas.message_id import ZERO, MessageId
from schemas.problems import PROBLEMS
from tests.unit.delivery.frames import taken_apart
from ticketwire.settings import SharedSettings

PONG = '{"type":"pong"}'
WINDOW = 6
RECENT = 3


def frames_in(data: bytes) -> list[Any]:
    """What the text frames among what was written hold."""
    return [json.loads(payload) for first, payload in taken_apart(data) if first == 0x81]


class Socket:
    """A transport that never fails and may be slow."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.paused = self.closing = self.deflates = False
        self.code: int | None = None
        self.handler: Client | None = None
        self.beat = b""
        self.restart_code = 0

    def write(self, data: bytes) -> None:
        if not self.closing:
            self.got += frames_in(data)

    def fail(self, code: str, reason: str) -> None:
        self.close(PROBLEMS[code].close or 0)

    def close(self, code: int) -> None:
        if not self.closing:
            self.closing, self.code = True, code
            assert self.handler is not None
            self.handler.on_close(code)


class BusyPace(Pace):
    """A room that has used up its share for good."""

    def due(self, longest_s: float) -> float:
        return time.monotonic() + longest_s


class World:
    """One ticket's log, its room, and what a node has beside it."""

    def __init__(self, group: asyncio.TaskGroup, busy: bool) -> None:
        self.log: list[Confirmed] = []
        self.heard = True  # whether wake-ups arrive
        self.ticker = Ticker(1_000.0 if busy else 0.0)
        self.room = Room("7", self.ticker, lambda room, cause: self.repair(), RECENT)
        self.room.start(ZERO)
        if busy:  # whatever comes is held until somebody needs it, or enough waits
            self.room._pace = BusyPace()
        shared = SharedSettings(redis_url="redis://x", database_url="postgresql://x", auth="off")
        options = DeliverySettings(shared=shared, ack_window=WINDOW, replay_page_entries=4, frames_per_second=1_000)
        bus, none = cast(Any, self), cast(Any, None)
        self.services = Services(
            options, "node", bus, none, cast(Any, self), cast(Any, self), Replay(cast(Any, self), 2), Access("off"),
            Presence(bus, "node", lease_s=30, grace_s=0), Marks(bus, lambda _: False, every_s=1, days=1),
            Typists(6), NodeLoad(), lambda _: None, group, asyncio.Semaphore(4),
        )  # fmt: skip

    # As Rooms, Backlog and Bus:

    keys = cast(Any, type("K", (), {name: staticmethod(lambda ticket: ticket) for name in ("cursors", "reads", "log")}))

    async def script(self, name: str, keys: list[str], args: list[object]) -> list[Any]:
        await asyncio.sleep(0)
        return [["", "", 0, []]]

    async def enter(self, ticket: str) -> Room:
        await asyncio.sleep(0)
        return self.room

    def release(self, room: Room) -> None: ...

    async def catch_up(self, room: Room) -> None:
        self.repair()

    async def knows(self, ticket: str, position: MessageId) -> Known:
        await asyncio.sleep(0)
        return Known.LOG if any(entry.position == position for entry in self.log) else Known.NOWHERE

    async def page_after(self, ticket: str, position: MessageId, known: MessageId) -> Page:
        await asyncio.sleep(0)
        after = [entry for entry in self.log if entry.position > position]
        return Page([Event(entry) for entry in after[:4]], len(after) > 4)

    def repair(self) -> None:
        self.room.take(Page([Event(e) for e in self.log if e.position > self.room.position], more=False))

    def send(self, sender: str) -> None:
        number = len(self.log) + 1
        entry = Confirmed("7", f"{number}-0", sender, "x" * (number % 40), number, f"c{number}")
        prev = self.log[-1].message_id if self.log else "0-0"
        self.log.append(entry)
        if self.heard:
            self.room.on_message(f'{{"prev_id":"{prev}",{event_tail(entry)}')


class Reader:
    """What a client that follows the rules makes of its frames."""

    def __init__(self, socket: Socket) -> None:
        self.socket = socket
        self.read_to = 0
        self.at: str | None = None  # None: not subscribed
        self.behind = 0  # events not acknowledged

    def read(self) -> None:
        for frame in self.socket.got[self.read_to :]:
            ANSWER.validate_python(frame, strict=True)
            kind = frame["type"]
            if kind == "subscribed":
                self.at, self.behind = frame["position"], 0
            elif kind == "unsubscribed":
                self.at = None
            elif kind == "caught_up":
                assert frame["position"] == self.at, "nothing may be missing where there is no retention"
            elif kind == "message":
                assert self.at is not None, "a message of a ticket that was left"
                assert frame["prev_id"] == self.at, "a gap, a repeat or a step back"
                assert ("client_message_id" in frame) == (frame["sender_id"] == "anna")
                self.at = frame["message_id"]
                self.behind += 1
                assert self.behind <= WINDOW, "more than the window without an acknowledgement"
        self.read_to = len(self.socket.got)


steps = st.one_of(
    st.tuples(st.just("send"), st.integers(1, 9)),
    st.tuples(st.just("lose"), st.integers(1, 3)),
    st.tuples(st.just("since"), st.integers(0, 12)),
    st.tuples(st.just("subscribe"), st.just(0)),
    st.tuples(st.just("unsubscribe"), st.just(0)),
    st.tuples(st.just("ack"), st.integers(0, 4)),
    st.tuples(st.just("slow"), st.booleans()),
    st.tuples(st.just("turn"), st.integers(1, 4)),
    st.tuples(st.just("typing"), st.booleans()),
    st.tuples(st.just("wrong"), st.sampled_from(["x", "{}", '{"type":"ack"}', '{"type":"connect","user":"b"}'])),
)


async def play(moves: list[tuple[str, Any]], busy: bool) -> None:
    async with asyncio.TaskGroup() as group:
        world, socket = World(group, busy), Socket()
        client = socket.handler = Client(world.services)
        reader = Reader(socket)
        client.on_open(cast(Any, socket))
        client.on_text('{"type":"connect","user":"anna"}')
        await settle()

        def say(**frame: Any) -> None:
            reader.read()
            client.on_text(json.dumps(frame))

        for move, value in moves:
            if move == "send":
                for n in range(value):
                    world.send("anna" if n % 2 else "ben")
            elif move == "lose":
                world.heard = False
                for _ in range(value):
                    world.send("ben")
                world.heard = True
            elif move == "since":
                if value <= len(world.log):
                    say(type="subscribe", ticket_id="7", since=f"{value}-0")
            elif move == "subscribe" or move == "unsubscribe":
                say(type=move, ticket_id="7")
            elif move == "ack":
                reader.read()
                if reader.at is not None and not pending(client):
                    position = max(0, int(reader.at.partition("-")[0]) - value)
                    say(type="ack", ticket_id="7", position=f"{position}-0")
                    reader.behind = min(reader.behind, value)
            elif move == "slow":
                socket.paused = value
                if not value:
                    client.on_drained()
            elif move == "typing":
                say(type="typing", ticket_id="7", on=value)
            elif move == "wrong":
                client.on_text(value)
            else:
                for _ in range(value):
                    await asyncio.sleep(0)
            reader.read()
        # The end: the client reads and acknowledges everything.
        socket.paused = False
        client.on_drained()
        world.repair()
        world.ticker.hold_nothing()
        await settle()
        reader.read()
        while reader.at is not None and reader.behind:
            reader.behind = 0
            client.on_text(json.dumps({"type": "ack", "ticket_id": "7", "position": reader.at}))
            await settle()
            reader.read()
        assert socket.code is None, f"closed with {socket.code}: {socket.got[-1]}"
        if reader.at is not None:
            assert reader.at == (world.log[-1].message_id if world.log else "0-0"), "events are missing at the end"
        socket.close(1006)
        assert not world.room.members()
        await settle()


def pending(client: Client) -> bool:
    """Whether a subscription is on its way, so that what the client has belongs to an older one."""
    return any(seat.members is None for seat in client._seats.values())


async def settle() -> None:
    for _ in range(60):
        await asyncio.sleep(0)


@settings(max_examples=300, deadline=None)
@example([("subscribe", 0), ("turn", 3), ("send", 7), ("turn", 2), ("unsubscribe", 0)], False)
@example([("subscribe", 0), ("turn", 3), ("send", 8), ("turn", 3), ("subscribe", 0)], False)
@given(st.lists(steps, max_size=40), st.booleans())
def test_whatever_happens_a_client_has_every_event_in_order(moves: list[tuple[str, Any]], busy: bool) -> None:
    """Live, behind, paused, gapped, subscribed again, in a busy room: no loss, no repeat, no disorder, window kept.

    The examples: a seat was left while a page was read for it, and the page was still written.
    """
    asyncio.run(play(moves, busy))


texts = st.one_of(
    st.text(max_size=40),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
        max_leaves=12,
    ).map(json.dumps),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["connect", "subscribe", "unsubscribe", "ack", "read", "typing", "presence", "pong"])},
        optional={
            "ticket_id": st.sampled_from(["7", "8", "9", "a:b", "", 5]),
            "position": st.sampled_from(["1-0", "x", "1-0\n", None]),
            "since": st.sampled_from(["1-0", "0-0", "-"]),
            "user": st.sampled_from(["anna", "", "a b"]),
            "id": st.integers(-1, 2**60),
            "resume": st.dictionaries(st.sampled_from(["1", "2", "{}"]), st.sampled_from(["1-0", None, 3])),
        },
    ).map(json.dumps),
)


@settings(max_examples=500, deadline=None)
@given(st.lists(texts, max_size=30))
def test_whatever_is_sent_a_session_answers_by_the_protocol(sent: list[str]) -> None:
    """Never an exception; every error is of the table; after a failure nothing means anything any more."""
    session = Session(frames_per_second=20, max_tickets=2)
    for number, text in enumerate(sent):
        ended = session.state is State.ENDED
        for effect in session.receive(text, number / 10):
            assert not ended
            if isinstance(effect, Send):
                ANSWER.validate_python(effect.frame, strict=True)
                assert effect.frame["code"] in PROBLEMS
            elif isinstance(effect, Fail):
                assert PROBLEMS[effect.code].close is not None
                assert session.state is State.ENDED
            elif effect.type == "connect":
                session.admitted(effect)
        assert len(session.tickets) <= 2


@given(st.lists(st.tuples(st.sampled_from(["live", "queue", "ack"]), st.integers(0, 5)), max_size=60))
def test_what_is_outstanding_is_counted_right(moves: list[tuple[str, int]]) -> None:
    """Against a list of what was sent: number, bytes and the newest position, live and catching up."""
    ledger, acks, sent, live, number = Ledger(keep=64), Outstanding(ZERO), list[tuple[MessageId, int]](), False, 0
    for move, value in moves:
        if move == "ack":
            if sent:
                position = sent[min(value, len(sent) - 1)][0]
                assert acks.ack(position)
                sent = [one for one in sent if one[0] > position]
        else:
            if (move == "live") != live:
                live = not live
                acks.go_live(ledger) if live else acks.leave_live()
            for _ in range(value):
                number += 1
                sent.append((MessageId(number, 0), 10 + number % 7))
                # What one reader gets while catching up, the others have had before.
                ledger.add(*sent[-1]) if live else acks.note(*sent[-1])
            if not live:
                ledger.at = MessageId(number, 0)
        assert acks.count == len(sent)
        assert acks.size == sum(size for _, size in sent)
        assert acks.sent_to == MessageId(number, 0)


def test_a_session_is_paced_by_what_frames_cost() -> None:
    """A burst of ten seconds' worth, then the steady rate."""
    session = Session(frames_per_second=2, max_tickets=5)
    session.receive('{"type":"connect","user":"a"}', 0)
    session.state = State.CONNECTED
    taken = 0
    while not session.receive(PONG, 0.0):
        taken += 1
    assert taken == 19  # and connect
    assert session.state is State.ENDED
    steady = Session(frames_per_second=2, max_tickets=5)
    steady.state = State.CONNECTED
    assert [effect for n in range(200) for effect in steady.receive(PONG, 100 + n / 2)] == []


def test_a_notice_is_not_an_event() -> None:
    """Typing has no place in the log: it moves no position."""
    found = read_event('{"type":"typing","ticket_id":"7","user_id":"a","on":true,"expires_in_ms":1}')
    assert not isinstance(found, tuple)
