"""The public port: plain sockets, history, the chat page. Parse, call, answer; no decisions."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import QueryParams
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.websockets import WebSocket

from delivery.access import Access
from delivery.backlog import Backlog
from delivery.clients import Clients
from delivery.events import Encoding, plain
from delivery.fanout import Fanout
from delivery.frames import plain_deflated
from delivery.long_poll import LongPoll
from delivery.parameters import check_origin, limit, only_once, position, seconds, ticket_id
from delivery.plain import PlainReader
from delivery.protocol import EXTENSION, SocketProtocol, Sockets
from delivery.replay import PreparedReader, Replay
from delivery.room import Room
from delivery.settings import DeliverySettings
from delivery.sse import EventStream
from delivery.subscribing import joins, past_message
from delivery.subscriptions import Rooms
from schemas.events import Confirmed
from schemas.frames import SUBPROTOCOL
from schemas.message_id import MessageId
from schemas.problems import PROBLEMS
from ticketwire.archive.messages import Archive
from ticketwire.bus.bus import Bus
from ticketwire.errors import Rejected, TicketwireError, Unavailable

log = logging.getLogger(__name__)

DEFAULT_LIMIT = 50
_PRODUCT = "ticketwire."
_PARAMETERS = ("ticket_id", "since", "before", "after", "limit", "wait")


def web_folder() -> Path:
    """Where the page and its scripts lie."""
    spec = importlib.util.find_spec("web")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def answer(problem: TicketwireError) -> Response:
    """Turn an error into its HTTP answer."""
    headers = {"Retry-After": str(problem.retry_after_s)} if isinstance(problem, Unavailable) else None
    return JSONResponse({"error": problem.detail}, problem.problem.status, headers)


def _encoding(socket: SocketProtocol) -> Encoding:
    return plain_deflated if socket.deflates else plain


class Routes:
    """The endpoints of one node."""

    def __init__(
        self,
        settings: DeliverySettings,
        bus: Bus,
        rooms: Rooms,
        replay: Replay,
        backlog: Backlog,
        archive: Archive,
        clients: Clients,
        access: Access,
        sockets: Sockets,
    ) -> None:
        self._settings = settings
        self._bus = bus
        self._rooms = rooms
        self._replay = replay
        self._archive = archive
        self._backlog = backlog
        self._clients = clients
        self._access = access
        self._sockets = sockets
        self._web = web_folder()
        self.refusal = "this node has not reached Redis yet"  # empty once it has

    # --- sockets

    async def socket(self, websocket: WebSocket) -> None:
        """`/?ticket_id=…[&since=…]` and `/ws/{ticket}[?since=…]`. Refusals come before the upgrade, as HTTP."""
        query = websocket.query_params
        if any(name.startswith(_PRODUCT) for name in websocket.scope["subprotocols"]):
            await self._session(websocket)
            return
        try:
            self._check(websocket)
            named = websocket.path_params.get("ticket", query.get("ticket_id"))
            since = position("since", query.get("since"))
            if named is None:
                self._allow_everything(query)
                feed: Fanout = await self._rooms.everything()
            else:
                feed = await self._rooms.enter(ticket_id(named))
        except TicketwireError as exc:
            await websocket.send_denial_response(answer(exc))
            return
        reader = PlainReader(lambda socket: self._leave(feed, socket), self._settings.plain_frames_per_minute)
        try:
            await websocket.accept()
        except BaseException:
            if isinstance(feed, Room):
                self._rooms.release(feed)
            raise
        # From here on the reader is told of the end, whatever ends it.
        socket: SocketProtocol = websocket.scope["extensions"][EXTENSION]["attach"](reader)
        if since is not None and isinstance(feed, Room):
            if since > feed.position:
                # A plain client cannot be told `reset`. Its position may be right and ours behind (the archive shows
                # a message a moment before it is confirmed), so it goes on from ours: a repeat rather than a loss.
                log.info("position in the future", extra={"ticket": feed.ticket, "since": str(since)})
            await self._replay.run(feed, PreparedReader(socket, _encoding(socket)), min(since, feed.position))
        elif not socket.closing:
            feed.join(socket, _encoding(socket))

    async def _session(self, websocket: WebSocket) -> None:
        """A client of `ticketwire.v1`; its connect frame says the rest."""
        wanted = websocket.scope["subprotocols"]
        try:
            self._check(websocket)
        except TicketwireError as exc:
            await websocket.send_denial_response(answer(exc))
            return
        if SUBPROTOCOL not in wanted:
            # Accepted only so that the client can be told, by a code that browsers show.
            problem = PROBLEMS["protocol_version"]
            await websocket.accept()
            await websocket.close(problem.close or 1002, f"{', '.join(wanted)[:40]} is not spoken here: {SUBPROTOCOL}")
            return
        await websocket.accept(SUBPROTOCOL)
        websocket.scope["extensions"][EXTENSION]["attach"](self._clients.new())

    def _leave(self, feed: Fanout, socket: SocketProtocol) -> None:
        feed.leave(socket, _encoding(socket))
        if isinstance(feed, Room):
            self._rooms.release(feed)

    def _check(self, connection: HTTPConnection) -> None:
        check_origin(connection.headers, self._settings.origins)
        only_once(_PARAMETERS, connection.query_params.multi_items())
        if self.refusal:
            raise Unavailable(self.refusal)

    def _allow_everything(self, query: QueryParams) -> None:
        if not self._settings.shared.allow_everything_feed:
            raise Rejected("invalid", "ticket_id is missing: /?ticket_id=12345 or /ws/12345")
        if self._bus.keys.cluster:
            # Sharded channels have no patterns, and one for each node would still not be one order.
            raise Rejected("invalid", "ticket_id is missing: a feed of every ticket does not exist on Redis Cluster")
        if "since" in query:
            raise Rejected("invalid", "since is given without a ticket_id: the feed of every ticket has no positions")

    # --- streams, history, the page

    async def stream(self, request: Request) -> Response:
        """`GET /sse/{ticket}`, resumed by Last-Event-ID or `since`."""
        query = request.query_params
        try:
            self._check(request)
            ticket = ticket_id(request.path_params["ticket"])
            since = position("since", request.headers.get("last-event-id") or query.get("since"))
            self._make_sure_of_room()
            await self._access.may_read(None, ticket)
            room = await self._rooms.enter(ticket)
            try:
                reset = since is not None and not await joins(self._backlog, self._rooms, room, since)
            except BaseException:
                self._rooms.release(room)
                raise
        except TicketwireError as exc:
            return answer(exc)
        return EventStream(self._sockets.streams, self._replay, room, since, reset, lambda: self._rooms.release(room))

    def _make_sure_of_room(self) -> None:
        refusal = self._sockets.refusal
        if refusal is not None:
            raise refusal

    async def history(self, request: Request) -> Response:
        """`GET /tickets/{ticket}/messages?before=&after=&limit=&wait=`: oldest first, both bounds exclusive.

        With `after` the messages that follow it most closely, else those that precede `before`, or the end.
        `has_more` says whether there are others in that direction. With `wait`, seconds, the answer is held back
        until there is a message after `after` (long poll).
        """
        query = request.query_params
        try:
            only_once(_PARAMETERS, query.multi_items())
            ticket = ticket_id(request.path_params["ticket"])
            before = position("before", query.get("before"))
            after = position("after", query.get("after"))
            size = limit(query.get("limit"), DEFAULT_LIMIT, self._settings.history_limit)
            patience = seconds("wait", query.get("wait"), self._settings.long_poll_seconds)
            if patience and after is None:
                raise Rejected("invalid", "wait is given without after: there would be nothing to wait for")
            await self._access.may_read(None, ticket)
            found = await self._archive.history(ticket, before=before, after=after, limit=size + 1)
            if not found and patience and after is not None:
                self._make_sure_of_room()
                found = await self._wait(ticket, after, before, size + 1, patience)
        except TicketwireError as exc:
            return answer(exc)
        has_more = len(found) > size
        shown = found[:size] if after is not None else found[-size:]
        return JSONResponse(
            {"messages": [past_message(event) for event in shown], "has_more": has_more},
            headers={"Cache-Control": "no-store"},
        )

    async def _wait(
        self, ticket: str, after: MessageId, before: MessageId | None, size: int, patience: float
    ) -> list[Confirmed]:
        """Return what comes after *after*, as soon as anything does; nothing when *patience* ends."""
        room = await self._rooms.enter(ticket)
        waiter = LongPoll(self._sockets.streams.ending)
        room.join(waiter, plain)
        try:
            async with asyncio.timeout(patience):
                while not waiter.over:
                    # Asked again at first: what came before `join` is there already.
                    found = await self._archive.history(ticket, before=before, after=after, limit=size)
                    if found:
                        return found
                    await waiter.woken()
        except TimeoutError:
            pass
        finally:
            room.leave(waiter, plain)
            self._rooms.release(room)
        return []

    async def page(self, request: Request) -> Response:
        """The chat page."""
        ingest = urlsplit(self._settings.ingest_url)
        posts_to = f"{ingest.scheme}://{ingest.netloc}" if ingest.netloc else "http: https:"
        policy = (
            f"default-src 'self'; connect-src 'self' ws: wss: {posts_to}; img-src 'self' data:; "
            "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
        return FileResponse(self._web / "chat.html", headers=headers)

    async def config(self, request: Request) -> Response:
        """What the page needs to know; an empty `ingest_url` means port 8000 of the page's own host."""
        return JSONResponse({"ingest_url": self._settings.ingest_url}, headers={"Cache-Control": "no-store"})
