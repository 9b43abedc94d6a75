"""The delivery tier's own settings (`DELIVERY_*`)."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from delivery.heartbeat import SPOKES
from delivery.memory import parse_limit
from ticketwire.settings import SharedSettings, Words


def _memory(value: str) -> str:
    parse_limit(value)
    return value


class DeliverySettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="DELIVERY_", frozen=True, extra="ignore")

    shared: SharedSettings = Field(default_factory=SharedSettings)
    host: str = Field(default="0.0.0.0", description="address of sockets, history and the chat page")
    port: int = Field(default=8080, ge=0, le=65_535, description="their port")
    internal_host: str = Field(default="0.0.0.0", description="address of /livez, /readyz and /metrics")
    internal_port: int = Field(default=9090, ge=0, le=65_535, description="port of /livez, /readyz and /metrics")
    name: str = Field(
        default="", pattern=r"^[A-Za-z0-9._-]{0,64}$", description="of this node, in logs; the host's name when empty"
    )

    origins: Words = Field(
        default=(),
        description="other hosts' pages that may open sockets and read history: https://chat.example.com, … or *",
    )
    ingest_url: str = Field(
        default="", description="where the chat page posts; empty: port 8000 of the host that served the page"
    )
    chat_page: bool = Field(default=True, description="whether GET / shows the chat page")

    max_sockets: int = Field(
        default=20_000, ge=1, description="open sockets, or as many as `ulimit -n` allows; more are refused with 503"
    )
    memory_limit: Annotated[str, AfterValidator(_memory)] = Field(
        default="80%",
        description="resident memory above which newcomers are refused with 503: bytes (512Mi), a share of the "
        "container's limit, or 0 for none",
    )
    max_header_bytes: int = Field(default=16_384, ge=1_024, description="request line and headers together")
    max_frame_bytes: int = Field(default=65_536, ge=1_024, description="of a client's message, fragments together")
    handshake_seconds: float = Field(default=10.0, gt=0, description="from connecting to a complete request")
    send_mark_bytes: int = Field(
        default=65_536, ge=4_096, description="unsent bytes above which a socket counts as slow and replay pauses"
    )
    send_buffer_bytes: int = Field(
        default=1_048_576, ge=4_096, description="unsent bytes at which a slow socket is closed with 4004"
    )
    deflate: bool = Field(
        default=False, description="compress frames (permessage-deflate) for sockets that ask for it, each once for all"
    )
    coalesce_ms: int = Field(
        default=25,
        ge=0,
        le=25,
        description="in a busy ticket a message may wait so long for others to share its write; 0: never",
    )
    close_seconds: float = Field(
        default=5.0, gt=0, description="a socket being closed may take so long, then it is cut"
    )
    ping_seconds: float = Field(default=25.0, gt=0, description="between pings of a socket")
    pong_seconds: float = Field(default=10.0, gt=0, description="without an answer to a ping the socket is closed")
    plain_frames_per_minute: int = Field(
        default=60, ge=1, description="text frames a plain client may send (they mean nothing) before it is closed"
    )

    replay_pages: int = Field(
        default=16, ge=1, description="pages of backlog in memory at a time, over all sockets that catch up"
    )
    replay_page_entries: int = Field(default=200, ge=1, le=500, description="messages a page of backlog")
    recent_events: int = Field(default=64, ge=0, description="newest messages of a ticket with sockets kept in memory")
    linger_seconds: float = Field(
        default=10.0, ge=0, description="a ticket stays subscribed so long after its last socket left"
    )
    open_seconds: float = Field(
        default=3.0, gt=0, description="a handshake may wait so long for Redis, then it is refused with 503"
    )
    position_check_seconds: float = Field(
        default=5.0, gt=0, description="between comparisons of every active ticket's position with its log"
    )
    canary_seconds: float = Field(default=1.0, gt=0, description="between this node's messages to itself through Redis")
    canary_lost_seconds: float = Field(
        default=5.0, gt=0, description="without one coming back the node is not ready and subscribes anew"
    )
    history_limit: int = Field(default=200, ge=1, le=1_000, description="most messages a history call returns")
    long_poll_seconds: int = Field(default=60, ge=0, le=3_600, description="longest `wait` of a history call")
    archive_connections: int = Field(default=4, ge=1, le=64, description="PostgreSQL connections of this node")
    archive_timeout_ms: int = Field(default=5_000, ge=100, le=600_000, description="longest wait for PostgreSQL")

    max_tickets: int = Field(default=200, ge=1, le=2_000, description="subscriptions of one v1 socket")
    frames_per_second: int = Field(
        default=50, ge=1, description="frames a v1 client may send; ten seconds' worth at once, then it is closed"
    )
    subscribe_at_once: int = Field(default=64, ge=1, description="subscriptions under way at a time, over all sockets")
    ack_window: int = Field(
        default=512, ge=1, le=10_000, description="unacknowledged messages at which a v1 socket pauses"
    )
    ack_bytes: int = Field(
        default=524_288, ge=1_024, description="the same in bytes; at most what DELIVERY_SEND_BUFFER_BYTES is"
    )
    ack_interval_ms: int = Field(
        default=5_000, ge=10, description="clients are asked to acknowledge so often at most while messages flow"
    )
    ack_seconds: float = Field(
        default=20.0, gt=0, description="a v1 socket paused so long without progress is closed with 4008"
    )
    cursor_days: int = Field(
        default=30, ge=1, le=3_650, description="a ticket's device and read positions are kept so long"
    )
    marks_seconds: float = Field(
        default=1.0, gt=0, description="between writes of acknowledged and read positions to Redis"
    )
    receipt_readers: int = Field(
        default=50, ge=0, description="in a ticket with more v1 subscriptions on this node no receipts are sent"
    )
    presence_lease_seconds: float = Field(
        default=30.0, ge=0.3, description="after a node's death its people are gone so soon"
    )
    presence_grace_seconds: float = Field(
        default=15.0, ge=0, description="who lost the connection stays present so long, and may come back"
    )
    typing_seconds: float = Field(default=6.0, ge=1, description="typing ends by itself after")
    shed_lag_ms: int = Field(
        default=150, ge=1, description="with the event loop so late, typing is not passed on (counted)"
    )

    @property
    def window_bytes(self) -> int:
        """`ack_bytes`, but never more than a socket's buffer takes."""
        return min(self.ack_bytes, self.send_buffer_bytes)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        longest = self.ping_seconds * (SPOKES - 1) / SPOKES  # the answer is due before the next ping
        if self.pong_seconds > longest:
            raise ValueError(
                f"DELIVERY_PONG_SECONDS is {self.pong_seconds:g}, must be at most {longest:g}, "
                f"as DELIVERY_PING_SECONDS is {self.ping_seconds:g}"
            )
        if self.send_mark_bytes > self.send_buffer_bytes:
            raise ValueError(
                f"DELIVERY_SEND_MARK_BYTES is {self.send_mark_bytes}, must not exceed "
                f"DELIVERY_SEND_BUFFER_BYTES, which is {self.send_buffer_bytes}"
            )
        if self.canary_lost_seconds <= self.canary_seconds:
            raise ValueError(
                f"DELIVERY_CANARY_LOST_SECONDS is {self.canary_lost_seconds:g}, must be more than "
                f"DELIVERY_CANARY_SECONDS, which is {self.canary_seconds:g}"
            )
        return self
