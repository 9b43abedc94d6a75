"""From one event to many sockets: prepared once, joined per tick of the event loop, one write each."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

from delivery import metrics
from delivery.events import Encoding, Event
from delivery.pacing import ENOUGH, Pace

log = logging.getLogger(__name__)

# One write is at most about so long, so that a socket's bound holds though writes are joined.
WRITE_BYTES = 65_536
_TIMER_S = 0.001  # how exact timers of the event loop are


class Writer(Protocol):
    """Whoever gets prepared frames: a socket or an SSE stream."""

    @property
    def write(self) -> Callable[[bytes], None]:
        """Never waits and never raises; what is written after the end is dropped."""


class Audience(Protocol):
    """Readers that need more care than a write: those of v1."""

    def __len__(self) -> int: ...

    def deliver(self, events: list[Event], outbox: Outbox | None) -> tuple[int, int]:
        """Give *events* to all, by way of *outbox* if there is one; return how many frames and bytes that were."""


def joined(frames: list[bytes], limit: int = WRITE_BYTES) -> list[bytes]:
    """Join *frames* in order into pieces of at least one frame and at most about *limit* bytes.

    An empty frame is an event that this encoding does not show.
    """
    if len(frames) == 1 and frames[0]:
        return frames
    pieces: list[bytes] = []
    piece: list[bytes] = []
    size = 0
    for frame in filter(None, frames):
        if piece and size + len(frame) > limit:
            pieces.append(b"".join(piece))
            piece, size = [], 0
        piece.append(frame)
        size += len(frame)
    if piece:
        pieces.append(b"".join(piece))
    return pieces


class Outbox:
    """What several rooms have for the same sockets in one tick: one write for each socket."""

    def __init__(self) -> None:
        self._pieces: dict[Writer, list[bytes]] = {}

    def add(self, socket: Writer, data: bytes) -> None:
        pieces = self._pieces.get(socket)
        if pieces is None:
            self._pieces[socket] = [data]
        else:
            pieces.append(data)

    def send(self) -> None:
        for socket, pieces in self._pieces.items():
            for data in joined(pieces):
                socket.write(data)


class Ticker:
    """Flushes everything that got events in this tick of the event loop at its end, and what is held when it is due.

    Held are events of busy rooms (`pacing`), at most *longest_s* seconds; 0: none. One timer serves all rooms.
    """

    def __init__(self, longest_s: float = 0.0) -> None:
        self.longest_s = longest_s
        self._dirty: list[Fanout] = []
        self._held: dict[Fanout, float] = {}  # and when they are due
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def schedule(self, fanout: Fanout, due: float, now: float) -> None:
        """Flush *fanout* when it is *due*: at the end of this tick if that is not after *now*."""
        if due > now:
            metrics.HELD.inc()
            self._held[fanout] = due
            if self._timer is None or due < self._timer_at:
                self._set_timer(due)
            return
        if not self._dirty:
            asyncio.get_running_loop().call_soon(self._flush)
        self._dirty.append(fanout)

    def hurry(self, fanout: Fanout) -> None:
        """Flush *fanout* at the end of this tick if it is held."""
        if self._held.pop(fanout, None) is not None:
            self.schedule(fanout, 0.0, 0.0)

    def flushed(self, fanout: Fanout) -> None:
        """It was, perhaps before its time."""
        self._held.pop(fanout, None)

    def hold_nothing(self) -> None:
        """Flush what is held, and hold nothing from now on."""
        self.longest_s = 0.0
        for fanout in list(self._held):
            fanout.flush()

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = asyncio.get_running_loop().call_later(at - time.monotonic(), self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        soon = time.monotonic() + _TIMER_S
        for fanout in [fanout for fanout, due in self._held.items() if due <= soon]:
            self.hurry(fanout)
        if self._held:
            self._set_timer(min(self._held.values()))

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        outbox = Outbox() if len(dirty) > 1 else None
        for fanout in dirty:
            try:
                fanout.flush(outbox)
            except Exception:  # one broken room must not stop the others of this tick
                log.exception("fault in a room")
        if outbox is not None:
            outbox.send()


class Fanout:
    """Live readers by encoding, and the events of this tick that they have not been written yet."""

    def __init__(self, ticker: Ticker) -> None:
        self._ticker = ticker
        self._live: dict[Encoding, set[Writer]] = {}
        self._audience: Audience | None = None
        self._pending: list[Event] = []
        self._pending_since = 0.0
        self._pace = Pace()

    @property
    def live(self) -> int:
        """How many readers."""
        return sum(map(len, self._live.values())) + (len(self._audience) if self._audience is not None else 0)

    def join(self, reader: Writer, encoding: Encoding) -> None:
        """Give *reader* every event from now on, none from before."""
        self.flush()
        self._live.setdefault(encoding, set()).add(reader)

    def leave(self, reader: Writer, encoding: Encoding) -> None:
        """Forget *reader*, whether it had joined or not."""
        readers = self._live.get(encoding)
        if readers is not None:
            readers.discard(reader)
            if not readers:
                del self._live[encoding]

    def emit(self, event: Event) -> None:
        """Write *event* to all readers with its successors: at the end of this tick, in a busy room a little later."""
        pending = self._pending
        if not pending:
            now = self._pending_since = time.monotonic()
            longest_s = self._ticker.longest_s
            self._ticker.schedule(self, self._pace.due(longest_s) if longest_s else now, now)
        pending.append(event)
        if len(pending) >= ENOUGH:
            self._ticker.hurry(self)

    def flush(self, outbox: Outbox | None = None) -> None:
        """Write what is pending, now. What v1 readers get goes into *outbox*, if given: each may sit in many rooms."""
        if not self._pending:
            return
        self._ticker.flushed(self)
        events, self._pending = self._pending, []
        written = size = 0
        for encoding, readers in list(self._live.items()):
            # Copies: a write can find a reader too slow, which then leaves, perhaps the last one of its encoding.
            targets = list(readers)
            frames = [frame for event in events if (frame := event.frame(encoding))]
            for data in joined(frames):
                for reader in targets:
                    reader.write(data)
                size += len(data) * len(targets)
            written += len(frames) * len(targets)
        if self._audience is not None:
            given, octets = self._audience.deliver(events, outbox)
            written, size = written + given, size + octets
        if written:
            now = time.monotonic()
            self._pace.flushed(now, written // len(events))
            metrics.FRAMES.inc(written)
            metrics.BYTES.inc(size)
            metrics.FAN_OUT.observe(now - self._pending_since)
            metrics.AGE.observe(time.time() - events[-1].at.ms / 1000)
