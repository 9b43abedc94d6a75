"""The client: one socket for all tickets, kept up, resumed, acknowledged. See the package's docstring."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from schemas.frames import SUBPROTOCOL
from ticketwire.client.sender import RETRY_STATUS, Sender, Unsent, backoff
from ticketwire.client.subscription import Event, Stopped, Subscription
from ticketwire.client.tracker import EVENTS, Frame, Tracker, position_of

STOP_CODES = range(4500, 5000)
_LONGEST_REASON = 200  # bytes of a refusal that are shown
STEADY_S = 10.0  # a connection that lasted so long starts the backoff anew


def _socket_url(url: str) -> str:
    return "ws" + url.removeprefix("http").removeprefix("ws").rstrip("/") + "/"


class Client:
    """One user's connection. Use it as an async context manager."""

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        send_to: str | None = None,
        user: str | None = None,
        role: str | None = None,
        device: str | None = None,
        token: str | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """*url* is the delivery tier's (http or ws), *send_to* the ingest tier's, needed for `send` only.

        Several URLs are tried in turn, one at each connection: what a load balancer would do.
        """
        self.urls = [_socket_url(one) for one in ([url] if isinstance(url, str) else url)]
        self._identity = {"user": user, "role": role, "device": device, "token": token, "client": "python/1"}
        self._rng = rng or random.Random()
        self._tracker = Tracker()
        self._subscriptions: dict[str, Subscription] = {}
        self._socket: ClientConnection | None = None
        self._sender = Sender(send_to, user or "", token=token, rng=self._rng) if send_to else None
        self._answers: dict[int, asyncio.Future[Frame]] = {}
        self._presences: dict[str, Frame] = {}  # by ticket, how one wants to be seen there; for the next connection
        self._next_id = 1
        self._ack_timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Future[None]] = set()
        self._run: asyncio.Task[None] | None = None
        self._stopped: Stopped | None = None
        self.connected = asyncio.Event()
        self.notices: asyncio.Queue[Frame] = asyncio.Queue(maxsize=1_000)  # typing, receipts, presence; oldest go first
        self.connections = 0  # how often it has connected

    async def __aenter__(self) -> Self:
        self._run = asyncio.create_task(self._keep_up())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> list[Unsent]:
        """Acknowledge what was handled, and go. Ends all iterations; returns what no server has accepted."""
        await self._acknowledge()
        if self._run is not None:
            self._run.cancel()
            await asyncio.gather(self._run, *self._tasks, return_exceptions=True)
        self._end(None)
        return await self._sender.close() if self._sender is not None else []

    # --- what one does with it

    def subscribe(self, ticket: str, *, since: str | None = None) -> Subscription:
        """Return the ticket's events after *since* (`0-0`: all of them), or from now on, or where the device was."""
        if ticket in self._subscriptions:
            raise ValueError(f"ticket {ticket} is subscribed already")
        found = self._subscriptions[ticket] = Subscription(ticket, self.handled)
        if self._stopped is not None:
            found.put(self._stopped)
        self._say_soon(self._tracker.subscribe(ticket, since))
        return found

    def unsubscribe(self, ticket: str) -> None:
        """End a subscription's iteration."""
        self._subscriptions.pop(ticket).put(None)
        self._presences.pop(ticket, None)
        self._say_soon(self._tracker.unsubscribe(ticket))

    def position(self, ticket: str) -> str | None:
        """Where to go on another time: pass it as `since`."""
        return self._tracker.position(ticket)

    async def send(self, ticket: str, message: str, client_message_id: str | None = None) -> str:
        """Send a message and return its id; see `Sender.send`."""
        if self._sender is None:
            raise ValueError("send_to is not given: the URL of the ingest tier")
        return await self._sender.send(ticket, message, client_message_id)

    @property
    def outbox(self) -> list[Unsent]:
        """Messages that no server has accepted yet, oldest first."""
        return list(self._sender.outbox) if self._sender is not None else []

    async def request(self, kind: str, **fields: Any) -> Frame:
        """Send a request and return its answer, such as `history` or `presence`; an `error` frame is an answer too.

        Presence is said again on every later connection. Raises ConnectionError when the connection is lost meanwhile,
        Stopped when there will be none any more.
        """
        await self._up()
        number, self._next_id = self._next_id, self._next_id + 1
        future: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._answers[number] = future
        try:
            await self._say([{"type": kind, "id": number, **fields}])
            answer = await future
        finally:
            self._answers.pop(number, None)
        if answer["type"] == "presence_state" and answer["ticket_id"] in self._subscriptions:
            self._presences[answer["ticket_id"]] = {"type": "presence", **fields}
        return answer

    async def _up(self) -> None:
        """Wait until connected."""
        if self.connected.is_set():
            return
        if self._run is None:
            raise ConnectionError("the client was not opened: use it with `async with`")
        up = asyncio.ensure_future(self.connected.wait())
        try:
            await asyncio.wait({up, self._run}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
        if not self.connected.is_set():
            raise self._stopped or ConnectionError("the client is closed")

    async def tell(self, kind: str, **fields: Any) -> None:
        """Send what is not answered: `read`, `typing`. Lost if there is no connection at the moment."""
        await self._say([{"type": kind, **fields}])

    def handled(self, ticket: str, position: str) -> None:
        """Everything up to *position* may be acknowledged. A subscription says so by itself."""
        self._tracker.handled(ticket, position, time.monotonic() * 1000)
        self._time_acks()

    # --- keeping up

    async def _keep_up(self) -> None:
        attempt = 0
        try:
            while True:
                began, wait = time.monotonic(), None
                try:
                    wait = await self._one_connection()
                except (OSError, TimeoutError, ConnectionClosed, InvalidHandshake):
                    pass
                finally:
                    self._lost()
                if wait is None:
                    attempt = 0 if time.monotonic() - began > STEADY_S else attempt + 1
                    wait = backoff(attempt, self._rng)
                await asyncio.sleep(wait)
        except Stopped as exc:
            self._end(exc)
        except Exception as exc:  # nobody waits for this task: say it to those who wait for events
            self._end(Stopped(0, f"fault: {exc!r}"))
            raise

    async def _one_connection(self) -> float | None:
        """Hold one connection to its end; return how long to wait before the next, None for a backoff."""
        socket = await self._connect()
        loop, move_at = asyncio.get_running_loop(), None
        moving = False
        try:
            self._socket = socket
            self.connections += 1
            await self._say([self._tracker.connect(**self._identity)])
            try:
                while True:
                    async with asyncio.timeout_at(move_at):
                        data = await socket.recv(decode=False)
                    within_ms = await self._take(json.loads(data), len(data))
                    if within_ms is not None and move_at is None:
                        await self._acknowledge()
                        move_at = loop.time() + self._rng.uniform(0, within_ms / 1000)
            except TimeoutError:
                # It was read until now, so nothing is late. Not a goodbye (1000): one's presence is to stay.
                await self._acknowledge()
                moving = True
                self._background(socket.close(1001, "going to another node"))
                return 0.0
            except ConnectionClosed:
                pass
            code = socket.close_code or 1006
            if code in STOP_CODES:
                raise Stopped(code, socket.close_reason or "")
            return None
        finally:
            if not moving:
                await socket.close()

    async def _connect(self) -> ClientConnection:
        """Open a socket to the next URL. Raises Stopped when it will never be one."""
        self.urls.append(self.urls.pop(0))
        try:
            return await connect(
                self.urls[-1], subprotocols=[Subprotocol(SUBPROTOCOL)], compression=None, max_size=None
            )
        except InvalidURI as exc:
            raise Stopped(0, str(exc)) from exc
        except InvalidStatus as exc:
            status = exc.response.status_code
            if 400 <= status < 500 and status not in RETRY_STATUS:
                body = exc.response.body or b""
                raise Stopped(status, body[:_LONGEST_REASON].decode(errors="replace")) from exc
            raise

    async def _take(self, frame: Frame, size: int) -> int | None:
        outcome = self._tracker.receive(frame, size)
        for one in outcome.deliver:
            self._deliver(one)
        await self._say(outcome.send)
        if frame["type"] == "subscribed" and frame["ticket_id"] in self._presences:
            await self._say([self._presences[frame["ticket_id"]]])
        self._time_acks()
        return outcome.reconnect_within_ms

    def _deliver(self, frame: Frame) -> None:
        kind, answer = frame["type"], self._answers.get(frame.get("id", 0))
        subscription = self._subscriptions.get(frame.get("ticket_id", ""))
        if answer is not None and not answer.done():
            answer.set_result(frame)
        elif kind == "connected":
            self.connected.set()
        elif subscription is not None and kind in EVENTS:
            subscription.put(
                Event(
                    kind, frame["ticket_id"], position_of(frame), frame["message_id"], frame.get("sender_id", ""),
                    frame.get("message", ""), frame["timestamp"], frame.get("client_message_id"),
                )
            )  # fmt: skip
        elif subscription is not None and (kind == "caught_up" or frame.get("resume") == "reset"):
            subscription.put(
                Event("caught_up" if kind == "caught_up" else "reset", frame["ticket_id"], frame["position"])
            )
        else:
            if self.notices.full():
                self.notices.get_nowait()
            self.notices.put_nowait(frame)

    def _lost(self) -> None:
        self._socket = None
        self.connected.clear()
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        for future in self._answers.values():
            if not future.done():
                future.set_exception(ConnectionError("the connection was lost before the answer"))
        self._answers.clear()

    def _end(self, why: Stopped | None) -> None:
        self._stopped = why
        for subscription in self._subscriptions.values():
            subscription.put(why)

    # --- sending frames

    async def _say(self, frames: list[Frame]) -> None:
        socket = self._socket
        if socket is not None:
            with suppress(ConnectionClosed):  # whatever matters is said again on the next connection
                for frame in frames:
                    await socket.send(json.dumps(frame))

    def _say_soon(self, frames: list[Frame]) -> None:
        if frames:
            self._background(self._say(frames))

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _time_acks(self) -> None:
        due = self._tracker.ack_due_ms()
        if due is None or self._socket is None:
            return
        delay = due / 1000 - time.monotonic()
        if delay <= 0:
            self._ack_now()
        elif self._ack_timer is None:
            self._ack_timer = asyncio.get_running_loop().call_later(delay, self._ack_now)

    def _ack_now(self) -> None:
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        self._say_soon(self._tracker.acks(time.monotonic() * 1000))

    async def _acknowledge(self) -> None:
        await self._say(self._tracker.acks(time.monotonic() * 1000))
