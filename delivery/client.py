"""One v1 client: its socket, its session, its seats. Carries out what `session` says."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

from delivery import frames, metrics, wire
from delivery.access import Identity
from delivery.deflate import deflated
from delivery.members import Members
from delivery.protocol import SocketProtocol
from delivery.room import Room
from delivery.seat import Seat
from delivery.services import Services
from delivery.session import Effect, Fail, Send, Session, error
from delivery.subscribing import begin, past_message
from schemas.frames import Ack, Connect, History, Presence, Read, Refresh, Subscribe, Typing, Unsubscribe
from schemas.message_id import ZERO, MessageId
from schemas.problems import PROBLEMS
from ticketwire.errors import Rejected, TicketwireError, Unavailable

MOST_HISTORIES = 4  # calls under way at a time
SNAPSHOT_TRIES = 3  # to get a presence newer than the diffs that were sent meanwhile
V1_RESTART = PROBLEMS["draining"].close or 4001


class Client:
    """A handler of `SocketProtocol`. Idle it has no task, no queue and no timer."""

    __slots__ = ("_connecting", "_device", "_histories", "_identity", "_seats", "_services", "_session", "_waiting",
                 "socket", "stalled_at")  # fmt: skip

    socket: SocketProtocol

    def __init__(self, services: Services) -> None:
        self._services = services
        self._session = Session(services.settings.frames_per_second, services.settings.max_tickets)
        self._seats: dict[str, Seat] = {}
        self._identity: Identity | None = None
        self._device = ""
        self._connecting: asyncio.TimerHandle | None = None
        self._waiting: list[asyncio.Future[None]] | None = None
        self._histories = 0
        self.stalled_at: float | None = None

    # --- Handler

    def on_open(self, socket: SocketProtocol) -> None:
        self.socket = socket
        socket.beat = wire.PING + frames.PING
        socket.restart_code = V1_RESTART
        seconds = self._services.settings.handshake_seconds
        self._connecting = asyncio.get_running_loop().call_later(
            seconds, self.fail, "no_connect", f"no connect frame within {seconds:g} s"
        )

    def on_text(self, text: str) -> None:
        self._carry_out(self._session.receive(text, time.monotonic()))

    def on_bytes(self, data: bytes) -> None:
        self.fail("bad_request", "binary frames are not accepted here")

    def on_drained(self) -> None:
        self._wake()

    def on_close(self, code: int) -> None:
        self._session.end()
        self._stop_timer()
        services = self._services
        services.clients.discard(self)
        services.stalled.discard(self)
        if not services.clients:
            services.deserted.set()
        for seat in list(self._seats.values()):
            self._leave(seat, at_once=code == wire.NORMAL)
        self._wake()
        metrics.SESSIONS.set(len(services.clients))

    def fail(self, code: str, detail: str, request_id: int | None = None) -> None:
        """Say why in an error frame, and close."""
        self._session.end()
        if not self.socket.closing:
            self._say(error(code, detail, request_id))
            self.socket.fail(code, detail)

    def announce(self, within_ms: int) -> None:
        """Ask the client to reconnect within a time of its choice: this node stops."""
        self._say({"type": "reconnect", "within_ms": within_ms})

    # --- effects

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            if self.socket.closing:
                return
            match effect:
                case Send(frame=frame):
                    self._say(frame)
                case Fail():
                    self.fail(effect.code, effect.detail, effect.request_id)
                case Ack():
                    self._ack(effect)
                case Connect():
                    self._services.spawn(self._connect(effect), self)
                case Subscribe():
                    self._subscribe(effect)
                case Unsubscribe():
                    self._leave(self._seats[effect.ticket_id], at_once=True)
                    self._answer(effect.id, {"type": "unsubscribed", "ticket_id": effect.ticket_id})
                case Read():
                    self._read(effect)
                case Typing():
                    self._typing(effect)
                case Presence():
                    self._services.spawn(self._presence(effect), self)
                case History():
                    self._history(effect)
                case Refresh():
                    self._services.spawn(self._refresh(effect), self)

    def _say(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "error":
            metrics.FRAME_ERRORS.labels(frame["code"]).inc()
        data = frames.frame(frame)
        self.socket.write(deflated(data) if self.socket.deflates else data)

    def _answer(self, request_id: int | None, frame: dict[str, Any]) -> None:
        if request_id is not None:
            frame = {"type": frame["type"], "id": request_id, **frame}
        self._say(frame)

    def _refuse(self, exc: TicketwireError, request_id: int | None, ticket: str | None = None) -> None:
        after = float(exc.retry_after_s) if isinstance(exc, Unavailable) else None
        self._say(error(exc.code, exc.detail, request_id, ticket=ticket, retry_after_s=after))

    # --- connect

    async def _connect(self, request: Connect) -> None:
        services, settings = self._services, self._services.settings
        try:
            identity = await services.access.identify(request)
        except Unavailable as exc:
            self.fail(exc.code, exc.detail, request.id)
            return
        except Rejected as exc:
            self.fail(exc.code, exc.detail, request.id)
            return
        if self.socket.closing:
            return
        self._stop_timer()
        self._identity, self._device = identity, request.device or ""
        services.clients.add(self)
        metrics.SESSIONS.set(len(services.clients))
        self._answer(
            request.id,
            {
                "type": "connected",
                "session": secrets.token_hex(6),
                "node": services.node,
                "user": identity.user,
                "role": identity.role,
                "server_time": time.time_ns() // 1_000_000,
                "ping_ms": round(settings.ping_seconds * 1000),
                "pong_ms": round(settings.pong_seconds * 1000),
                "ack_window": settings.ack_window,
                "ack_bytes": settings.window_bytes,
                "ack_ms": settings.ack_interval_ms,
                "ack_timeout_ms": round(settings.ack_seconds * 1000),
                "max_tickets": settings.max_tickets,
                "max_frame_bytes": settings.max_frame_bytes,
            },
        )
        self._carry_out(self._session.admitted(request))

    def _stop_timer(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None

    # --- subscriptions

    def _subscribe(self, request: Subscribe) -> None:
        assert self._identity is not None
        old = self._seats.get(request.ticket_id)
        seat = self._seats[request.ticket_id] = Seat(self, request.ticket_id, self._identity.user)
        if old is not None:
            # The same client in the same ticket: it starts over, but has not gone.
            seat.watching, old.watching = old.watching, False
            self._vacate(old)
        self._services.spawn(self._enter(seat, self._identity, request), self)

    async def _enter(self, seat: Seat, identity: Identity, request: Subscribe) -> None:
        services = self._services
        try:
            async with services.entering:
                if seat.closing:
                    return
                await services.access.may_read(identity, seat.ticket)
                room = await services.rooms.enter(seat.ticket)
                if seat.closing:
                    services.rooms.release(room)
                    return
                seat.room = room
                found = await begin(services, room, identity, self._device, request)
        except TicketwireError as exc:
            if not seat.closing:
                self._session.dropped(seat.ticket)
                self._leave(seat, at_once=True)
                self._refuse(exc, request.id, seat.ticket)
            return
        if seat.closing:
            return
        metrics.RESUMES.labels(found.resume).inc()
        room.flush()
        seat.begin(self._members(room), found.position, resumes=found.resume == "full")
        if found.resume == "reset" and self._device:
            services.marks.acked(seat.ticket, identity.user, self._device, found.position, back=True)
        elif request.since and found.resume == "full" and found.position != ZERO:
            # It answers for everything up to here, though its acknowledgement may have been lost with a node.
            services.marks.acked(seat.ticket, identity.user, self._device, found.position)
        self._say(found.subscribed)
        if found.history is not None:
            self._say(found.history)
        await services.replay.run(room, seat, found.start)

    def _members(self, room: Room) -> Members:
        services = self._services
        found = room.members(lambda: Members(room.position, services.settings.ack_window + 1, services.load))
        assert found is not None
        return found

    def _leave(self, seat: Seat, *, at_once: bool) -> None:
        """End a subscription, with everything that goes with it."""
        services = self._services
        if self._seats.get(seat.ticket) is seat:
            del self._seats[seat.ticket]
        if seat.watching:
            seat.watching = False
            services.presence.unwatch(seat.ticket)
        services.presence.hide(seat.ticket, seat.user, self, at_once=at_once)
        if seat.members is not None and seat.user in seat.members.typists:
            services.publish(services.typists.stop(seat.ticket, seat.user))
        self._vacate(seat)

    def _vacate(self, seat: Seat) -> None:
        seat.left = True
        if seat.members is not None:
            seat.members.remove(seat)
        if seat.room is not None:
            self._services.rooms.release(seat.room)
            seat.room = None
        self._progress()

    # --- the window, as seats see it

    def share(self) -> tuple[int, int]:
        """Return how many messages and bytes one seat may be sent until another acknowledgement.

        What is left of the window, divided by the seats: each may use up its share without the others' knowing. An
        event may be sent while both are above 0, so the window is exceeded by no more than an event of each seat.
        """
        settings, seats = self._services.settings, self._seats.values()
        count = settings.ack_window - sum(seat.acks.count for seat in seats)
        size = settings.window_bytes - sum(seat.acks.size for seat in seats)
        if len(seats) > 1:
            count = max(1, count // len(seats)) if count > 0 else 0
            size = max(1, size // len(seats)) if size > 0 else 0
        return count, size

    async def ready(self, seat: Seat) -> None:
        """Wait until the socket and the window have room, or the seat is left."""
        while not seat.closing:
            full = self._is_full()
            if not full and not self.socket.paused:
                return
            if full and self.stalled_at is None:
                self.stalled_at = time.monotonic()
                self._services.stalled.add(self)
                metrics.PAUSED.inc()
            if self._waiting is None:
                self._waiting = []
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future

    def _is_full(self) -> bool:
        """Too little is left of the window for another event to each seat."""
        count, size = self.share()
        return count < 1 or size < 1

    def follow(self, seat: Seat, position: MessageId) -> None:
        """Catch *seat* up from *position* when there is room, and make it live again."""
        self._services.spawn(self._follow(seat, position), self)

    async def _follow(self, seat: Seat, position: MessageId) -> None:
        await self.ready(seat)
        if seat.room is not None:
            await self._services.replay.run(seat.room, seat, position)

    def _progress(self) -> None:
        if self.stalled_at is not None:
            self.stalled_at = None
            self._services.stalled.discard(self)
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        for future in waiting or ():
            if not future.done():
                future.set_result(None)

    # --- requests in a ticket

    def _ack(self, request: Ack) -> None:
        seat = self._seats[request.ticket_id]
        position = MessageId.parse(request.position)
        if seat.members is None:  # of an earlier subscription
            self._carry_out(self._session.charge(time.monotonic()))
        elif position > seat.acks.sent_to:
            self.fail("ack_ahead", f"position is {position}, sent was {seat.acks.sent_to}")
        elif seat.acks.ack(position):
            self._services.marks.acked(seat.ticket, seat.user, self._device, position)
            self._progress()
        else:
            self._carry_out(self._session.charge(time.monotonic()))

    def _read(self, request: Read) -> None:
        seat = self._seats[request.ticket_id]
        position = MessageId.parse(request.position)
        if seat.room is None or seat.members is None:
            return  # as above
        if position > max(seat.room.position, seat.acks.sent_to):
            detail = f"position is {position}, the ticket ends at {seat.room.position}"
            self._say(error("ack_ahead", detail, request.id, ticket=seat.ticket))
            return
        self._services.marks.read(seat.ticket, seat.user, position)

    def _typing(self, request: Typing) -> None:
        seat, services = self._seats[request.ticket_id], self._services
        if seat.members is not None:
            now = time.monotonic()
            services.publish(services.typists.note(seat.ticket, seat.user, request.on, seat.members, now))

    async def _presence(self, request: Presence) -> None:
        services, seat = self._services, self._seats.get(request.ticket_id)
        if seat is None or self._identity is None:
            return
        if not seat.watching:
            seat.watching = True
            services.presence.watch(seat.ticket)
        if request.state == "hidden":
            services.presence.hide(seat.ticket, seat.user, self, at_once=True)
        else:
            services.presence.show(
                seat.ticket, seat.user, self._identity.role, self, request.state, request.activity or ""
            )
        try:
            for _ in range(SNAPSHOT_TRIES):
                view = await services.presence.snapshot(seat.ticket)
                if seat.members is None or view.version >= seat.members.presence_version:
                    break
        except Unavailable as exc:
            if not seat.closing:
                self._refuse(exc, request.id, seat.ticket)
            return
        members = [
            {"user_id": user, "role": role, "state": state, **({"activity": activity} if activity else {})}
            for user, role, state, activity in view.members
        ]
        if not seat.closing:
            self._answer(
                request.id,
                {"type": "presence_state", "ticket_id": seat.ticket, "version": view.version, "members": members},
            )

    def _history(self, request: History) -> None:
        if self._histories >= MOST_HISTORIES:
            detail = f"{MOST_HISTORIES} history requests are under way, allowed: {MOST_HISTORIES}"
            self._say(error("throttled", detail, request.id, ticket=request.ticket_id, retry_after_s=1))
            return
        self._histories += 1
        self._services.spawn(self._send_history(request), self)

    async def _send_history(self, request: History) -> None:
        services, ticket = self._services, request.ticket_id
        before = MessageId.parse(request.before) if request.before else None
        after = MessageId.parse(request.after) if request.after else None
        try:
            await services.access.may_read(self._identity, ticket)
            found = await services.archive.history(ticket, before=before, after=after, limit=request.limit + 1)
        except TicketwireError as exc:
            self._refuse(exc, request.id, ticket)
            return
        finally:
            self._histories -= 1
        shown = found[: request.limit] if after is not None else found[-request.limit :]
        self._answer(
            request.id,
            {
                "type": "history_page",
                "ticket_id": ticket,
                "messages": [past_message(event) for event in shown],
                "has_more": len(found) > request.limit,
            },
        )

    async def _refresh(self, request: Refresh) -> None:
        assert self._identity is not None
        access = self._services.access
        try:
            self._identity = await access.renew(self._identity, request.token)
        except TicketwireError as exc:
            self.fail(exc.code, exc.detail, request.id)
            return
        for seat in list(self._seats.values()):
            try:
                await access.may_read(self._identity, seat.ticket)
            except Rejected as exc:
                if not seat.closing:
                    self._session.dropped(seat.ticket)
                    self._leave(seat, at_once=True)
                    self._say({"type": "unsubscribed", "ticket_id": seat.ticket, "code": exc.code})
            except Unavailable as exc:
                self._refuse(exc, request.id, seat.ticket)
                return
        self._answer(request.id, {"type": "refreshed"})
