"""The frames of `ticketwire.v1`, both ways: flat JSON objects with `type`, one in each text frame of the WebSocket.

This is the one definition: the server validates with it, `ticketwire.client` is typed by it, and docs/protocol/ (JSON
Schema and AsyncAPI) is generated from it. A **position** is the id of a log entry: the `message_id` of a message, the
`event_id` of a change. A request may carry an `id`; whatever answers it repeats it.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal, NotRequired, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

# pydantic wants this one instead of typing's before Python 3.12.
from typing_extensions import TypedDict

from schemas.events import ID_PATTERN, ID_RULE
from schemas.message_id import MessageId

SUBPROTOCOL = "ticketwire.v1"
MOST_HISTORY = 200  # messages in one history page
MOST_TOKEN = 8_192  # characters
POSITION_RULE = "<milliseconds>-<sequence>"


def _position(value: str) -> str:
    return str(MessageId.parse(value))


Id = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
Position = Annotated[str, StringConstraints(pattern=r"^\d{1,20}-\d{1,20}$"), AfterValidator(_position)]
RequestId = Annotated[int, Field(ge=0, le=2**53 - 1, description="repeated by the answer")]
Activity = Literal["viewing", "replying"]
Resume = Literal["none", "full", "reset"]


class ClientFrame(BaseModel):
    """What all frames of a client share."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: RequestId | None = None


class Connect(ClientFrame):
    """First frame of a socket: who one is, and where to go on in all tickets one was in."""

    type: Literal["connect"]
    token: Annotated[str, StringConstraints(max_length=MOST_TOKEN)] | None = Field(
        default=None, description="access token; not looked at while TICKETWIRE_AUTH=off"
    )
    user: Id | None = Field(default=None, description="who one is; must be given while TICKETWIRE_AUTH=off")
    role: Id = Field(default="customer", description="shown in presence, such as customer, agent, bot")
    device: Id | None = Field(default=None, description="a name this device keeps: its position is kept on the server")
    client: Annotated[str, StringConstraints(max_length=128)] | None = Field(default=None, description="for logs")
    resume: dict[Id, Position | None] = Field(
        default_factory=dict,
        description="tickets to subscribe, each with the position to go on from; null: where this device has been",
    )


class Subscribe(ClientFrame):
    """Receive a ticket's events. Again for the same ticket: start over from another position."""

    type: Literal["subscribe"]
    ticket_id: Id
    since: Position | None = Field(default=None, description="go on after this; 0-0 is the beginning")
    history: Annotated[int, Field(ge=0, le=MOST_HISTORY)] = Field(
        default=0, description="newest messages wanted in a history_page where nothing is resumed"
    )


class Unsubscribe(ClientFrame):
    """Leave a ticket; one's presence there ends at once."""

    type: Literal["unsubscribe"]
    ticket_id: Id


class Ack(ClientFrame):
    """Everything of the ticket up to the position is this client's responsibility now. Not answered."""

    type: Literal["ack"]
    ticket_id: Id
    position: Position


class Read(ClientFrame):
    """The user has read the ticket up to the position. Not answered; others get a receipt."""

    type: Literal["read"]
    ticket_id: Id
    position: Position


class Typing(ClientFrame):
    """The user writes, or has stopped to. Not answered; repeat it every few seconds while it lasts."""

    type: Literal["typing"]
    ticket_id: Id
    on: bool = True


class Presence(ClientFrame):
    """Be seen in a ticket, and see the others there: answered by presence_state, followed by presence_diff."""

    type: Literal["presence"]
    ticket_id: Id
    state: Literal["online", "away", "hidden"] = Field(default="online", description="hidden: see, but not be seen")
    activity: Activity | None = None


class History(ClientFrame):
    """Ask for messages as they are now (edits applied, deleted ones absent), oldest first; bounds are exclusive."""

    type: Literal["history"]
    ticket_id: Id
    before: Position | None = None
    after: Position | None = None
    limit: Annotated[int, Field(ge=1, le=MOST_HISTORY)] = 50


class Refresh(ClientFrame):
    """A new token in place of one that will expire. Rights in all tickets are checked again."""

    type: Literal["refresh"]
    token: Annotated[str, StringConstraints(max_length=MOST_TOKEN)]


class Pong(ClientFrame):
    """Answer to ping. Any other frame tells the server as much."""

    type: Literal["pong"]


Request: TypeAlias = (
    Connect | Subscribe | Unsubscribe | Ack | Read | Typing | Presence | History | Refresh | Pong
)  # fmt: skip
CLIENT_FRAMES: Final[dict[str, type[ClientFrame]]] = {
    "connect": Connect, "subscribe": Subscribe, "unsubscribe": Unsubscribe, "ack": Ack, "read": Read,
    "typing": Typing, "presence": Presence, "history": History, "refresh": Refresh, "pong": Pong,
}  # fmt: skip
REQUEST: Final[TypeAdapter[Request]] = TypeAdapter(Annotated[Request, Field(discriminator="type")])


class BadFrame(ValueError):
    """A text frame that is no frame of a client. *code* is a key of the problems table."""

    def __init__(self, code: str, detail: str, request_id: int | None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.request_id = request_id  # as far as it could be read


def read_request(text: str) -> Request:
    """Read a client's frame. Raises BadFrame, saying what was found and what is allowed."""
    try:
        return REQUEST.validate_json(text)
    except ValidationError as exc:
        raise _bad_frame(exc, text) from exc


def _bad_frame(exc: ValidationError, text: str) -> BadFrame:
    error = exc.errors(include_url=False)[0]
    kind, found, place = error["type"], error["input"], [str(part) for part in error["loc"]]
    request_id = None if kind == "json_invalid" else _id_in(text)
    if kind == "json_invalid":
        return BadFrame("bad_request", "the frame is not JSON", None)
    if kind in ("model_attributes_type", "model_type", "dict_type") and not place:
        return BadFrame("bad_request", f"the frame is of type {type(found).__name__}, allowed: a JSON object", None)
    if kind == "union_tag_not_found":
        return BadFrame("bad_request", "the frame has no type", request_id)
    if kind == "union_tag_invalid":
        shown = str(found.get("type"))[:40]
        return BadFrame("unknown_type", f"type is {shown!r}, allowed: {', '.join(CLIENT_FRAMES)}", request_id)
    where = ".".join(part[:60] for part in place[1:]) or "frame"
    if kind == "extra_forbidden":
        allowed = ", ".join(CLIENT_FRAMES[place[0]].model_fields)
        return BadFrame("invalid", f"{where} is not a field of {place[0]}, allowed: {allowed}", request_id)
    if kind == "missing":
        return BadFrame("invalid", f"{where} is missing", request_id)
    shown = f"a value of type {type(found).__name__}"
    if isinstance(found, str | int | float | bool | None) and "token" not in place:
        shown = repr(found)[:60]
    return BadFrame("invalid", f"{where} is {shown}, allowed: {_rule(where, error)}", request_id)


def _id_in(text: str) -> int | None:
    try:
        given = json.loads(text)["id"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return given if type(given) is int and 0 <= given < 2**53 else None


def _rule(where: str, error: Any) -> str:
    field = where.partition(".")[0]
    if field in ("since", "position", "before", "after") or (field == "resume" and "[key]" not in where):
        return POSITION_RULE
    if error["type"] == "string_pattern_mismatch":
        return ID_RULE
    return str(error["msg"]).removeprefix("Input should be ")


# --- what the server says


class Connected(TypedDict):
    """The answer to connect, with what the server expects of this socket."""

    type: Literal["connected"]
    id: NotRequired[int]
    session: str  # for logs; no position depends on it
    node: str
    user: str
    role: str
    server_time: int  # Unix milliseconds
    ping_ms: int  # a ping comes so often: nothing for ping_ms + pong_ms means the connection is dead
    pong_ms: int  # an answer to a ping is expected within
    ack_window: int  # unacknowledged messages at which the socket pauses, over all its tickets
    ack_bytes: int  # or so many bytes of them
    ack_ms: int  # acknowledge so often at the most, unless half of a window is used
    ack_timeout_ms: int  # a paused socket without progress is closed with 4008
    max_tickets: int
    max_frame_bytes: int


class Subscribed(TypedDict):
    """The answer to subscribe, and one for each ticket of connect's resume.

    `none`: nothing was to be resumed. `full`: everything after `position` follows, then caught_up, then live.
    `reset`: the position asked for never existed, lies in the future or is kept nowhere any more: forget what you have.
    """

    type: Literal["subscribed"]
    id: NotRequired[int]
    ticket_id: str
    resume: Resume
    position: str  # the next event's prev_id
    until: NotRequired[str]  # with `full`: how far one catches up, at least
    read: NotRequired[str]  # up to where this user has read
    unread: NotRequired[int]  # messages of others after it; at most 100
    reads: NotRequired[dict[str, str]]  # up to where each other user has read; absent where there are many


class Unsubscribed(TypedDict):
    """The answer to unsubscribe; without `id` the server has ended the subscription (`code` says why)."""

    type: Literal["unsubscribed"]
    id: NotRequired[int]
    ticket_id: str
    code: NotRequired[str]


class Message(TypedDict):
    """A confirmed message. Its position is `message_id`; `prev_id` is the position before it."""

    type: Literal["message"]
    prev_id: str
    ticket_id: str
    message_id: str
    sender_id: str
    message: str
    timestamp: int  # Unix seconds
    client_message_id: NotRequired[str]  # only to the sender's own sockets
    original_id: NotRequired[str]  # the id it was sent under, where it was held or sent again
    trace_id: NotRequired[str]


class MessageUpdated(TypedDict):
    """The text of a message is another one. `message_id` is that message's, the position is `event_id`."""

    type: Literal["message_updated"]
    prev_id: str
    ticket_id: str
    event_id: str
    message_id: str
    message: str
    timestamp: int


class MessageDeleted(TypedDict):
    """A message is gone. `message_id` is that message's, the position is `event_id`."""

    type: Literal["message_deleted"]
    prev_id: str
    ticket_id: str
    event_id: str
    message_id: str
    timestamp: int


class CaughtUp(TypedDict):
    """Everything that was missed has been sent: what follows is live."""

    type: Literal["caught_up"]
    ticket_id: str
    position: str


class Receipt(TypedDict):
    """How far a user has received (acknowledged) and read the ticket. Positions only grow."""

    type: Literal["receipt"]
    ticket_id: str
    user_id: str
    delivered: NotRequired[str]
    read: NotRequired[str]


class TypingNotice(TypedDict):
    """A user writes or has stopped. It ends by itself after `expires_in_ms`, and with that user's next message."""

    type: Literal["typing"]
    ticket_id: str
    user_id: str
    on: bool
    expires_in_ms: int


class Member(TypedDict):
    """One user in a ticket, all tabs and devices together."""

    user_id: str
    role: str
    state: Literal["online", "away"]
    activity: NotRequired[Activity]


class PresenceState(TypedDict):
    """Who is in the ticket: the answer to presence."""

    type: Literal["presence_state"]
    id: NotRequired[int]
    ticket_id: str
    version: int
    members: list[Member]


class PresenceDiff(TypedDict):
    """Who came or changed, and who left. A version that is not the last one plus one: ask again with presence."""

    type: Literal["presence_diff"]
    ticket_id: str
    version: int
    members: list[Member]
    left: list[str]


class PastMessage(TypedDict):
    """A message in a history page."""

    ticket_id: str
    message_id: str
    sender_id: str
    message: str
    timestamp: int


class HistoryPage(TypedDict):
    """Messages as they are now, oldest first. `has_more`: there are others in the direction asked for."""

    type: Literal["history_page"]
    id: NotRequired[int]
    ticket_id: str
    messages: list[PastMessage]
    has_more: bool


class Refreshed(TypedDict):
    """The answer to refresh."""

    type: Literal["refreshed"]
    id: NotRequired[int]


class Ping(TypedDict):
    """Are you there? Answer with pong."""

    type: Literal["ping"]


class Error(TypedDict):
    """A request failed, or a frame could not be read. `temporary`: the same frame may succeed later."""

    type: Literal["error"]
    id: NotRequired[int]
    code: str  # a key of the problems table
    message: str
    temporary: bool
    ticket_id: NotRequired[str]
    retry_after_ms: NotRequired[int]


class Reconnect(TypedDict):
    """This node stops: acknowledge, and connect again at a random moment within the time given."""

    type: Literal["reconnect"]
    within_ms: int


ServerFrame: TypeAlias = (
    Connected | Subscribed | Unsubscribed | Message | MessageUpdated | MessageDeleted | CaughtUp | Receipt
    | TypingNotice | PresenceState | PresenceDiff | HistoryPage | Refreshed | Ping | Error | Reconnect
)  # fmt: skip
SERVER_FRAMES: Final[dict[str, Any]] = {
    "connected": Connected, "subscribed": Subscribed, "unsubscribed": Unsubscribed, "message": Message,
    "message_updated": MessageUpdated, "message_deleted": MessageDeleted, "caught_up": CaughtUp, "receipt": Receipt,
    "typing": TypingNotice, "presence_state": PresenceState, "presence_diff": PresenceDiff,
    "history_page": HistoryPage, "refreshed": Refreshed, "ping": Ping, "error": Error, "reconnect": Reconnect,
}  # fmt: skip
ANSWER: Final[TypeAdapter[ServerFrame]] = TypeAdapter(Annotated[ServerFrame, Field(discriminator="type")])
