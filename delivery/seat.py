"""One v1 client's place in one ticket: what it was sent, what it acknowledged, whether it is live. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from delivery.deflate import deflated
from delivery.events import Event
from delivery.fanout import WRITE_BYTES
from delivery.frames import frame, v1, v1_after, v1_deflated
from delivery.ledger import Outstanding
from delivery.members import Members
from delivery.room import Room
from schemas.message_id import ZERO, MessageId


class SlowSocket(Protocol):
    """A socket as a seat sees it (`SocketProtocol`)."""

    @property
    def write(self) -> Callable[[bytes], None]: ...

    @property
    def paused(self) -> bool: ...

    @property
    def closing(self) -> bool: ...

    @property
    def deflates(self) -> bool: ...


class Owner(Protocol):
    """The client whose seat it is: its socket, and a window that all its seats share."""

    @property
    def socket(self) -> SlowSocket: ...

    def share(self) -> tuple[int, int]:
        """Messages and bytes that one of its seats may be sent before another acknowledgement."""

    async def ready(self, seat: Seat) -> None:
        """Wait until the socket and the window have room, or the seat is left."""

    def follow(self, seat: Seat, position: MessageId) -> None:
        """Catch *seat* up from *position* once there is room, and make it live again."""


class Seat:
    """A reader of `Replay` while it catches up, then one of its ticket's `Members`."""

    __slots__ = ("_caught_up", "_owner", "acks", "left", "members", "room", "ticket", "user", "watching")

    def __init__(self, owner: Owner, ticket: str, user: str) -> None:
        self._owner = owner
        self.ticket = ticket
        self.user = user
        self.room: Room | None = None  # once entered
        self.members: Members | None = None  # once `subscribed` was sent
        self.acks = Outstanding(ZERO)
        self.watching = False
        self.left = False
        self._caught_up = False  # whether the client knows that it is

    def begin(self, members: Members, position: MessageId, *, resumes: bool) -> None:
        """The client was told *position*; what follows is sent. *resumes*: it waits for `caught_up`."""
        self.members = members
        self.acks = Outstanding(position)
        self._caught_up = not resumes
        members.add(self)

    # --- as Replay sees it

    @property
    def closing(self) -> bool:
        return self.left or self._owner.socket.closing

    async def ready(self) -> None:
        await self._owner.ready(self)

    def take(self, events: Sequence[Event], after: MessageId) -> int:
        """Write events as far as the window and the socket have room; each follows the one the client has."""
        if self.closing:  # left while its page was being read
            return 0
        socket, at = self._owner.socket, self.acks.sent_to
        count, size = self._owner.share()
        piece: list[bytes] = []
        waiting = taken = 0
        for event in events:
            if event.at <= at:  # the client named a position that this node did not know yet
                taken += 1
                continue
            author = event.confirmed.client_message_id is not None and event.confirmed.sender_id == self.user
            # Not *after*: where retention has left a hole, the client's own position is what it compares with.
            shared = event.prev == at and not author
            data = event.frame(v1) if shared else v1_after(event, at, author=author)
            if count < 1 or size < 1:
                break
            count, size = count - 1, size - len(data)
            at = event.at
            self.acks.note(at, len(data))
            if socket.deflates:
                data = event.frame(v1_deflated) if shared else deflated(data)
            piece.append(data)
            waiting += len(data)
            taken += 1
            if waiting >= WRITE_BYTES:
                socket.write(b"".join(piece))
                piece, waiting = [], 0
                if socket.paused or socket.closing:
                    break
        if piece:
            socket.write(b"".join(piece))
        return taken

    def join(self, room: Room) -> None:
        """Go live: everything up to the room's position was sent."""
        assert self.members is not None
        room.flush()
        if not self._caught_up or self.acks.sent_to < room.position:
            self._caught_up = True
            position = max(room.position, self.acks.sent_to)
            self.write(frame({"type": "caught_up", "ticket_id": self.ticket, "position": str(position)}))
        if not self.closing:
            self.members.join(self)

    # --- as Members see it

    @property
    def socket(self) -> SlowSocket:
        return self._owner.socket

    @property
    def deflates(self) -> bool:
        return self._owner.socket.deflates

    @property
    def slow(self) -> bool:
        return self._owner.socket.paused

    def write(self, data: bytes) -> None:
        self._owner.socket.write(data)

    def share(self) -> tuple[int, int]:
        return self._owner.share()

    def pause(self, position: MessageId) -> None:
        self._owner.follow(self, position)
