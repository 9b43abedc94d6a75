"""A v1 client that does only what a test tells it. Every frame it gets is held against its definition."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from schemas.entries import encode_confirmed
from schemas.events import Confirmed, event_tail
from schemas.frames import ANSWER, SUBPROTOCOL
from tests.integration.delivery.harness import Tier, end
from tests.until import until
from ticketwire.archive.rows import ArchiveRow
from ticketwire.bus.partition import Partition, Settlement

EVENTS = ("message", "message_updated", "message_deleted")


def position_of(frame: dict[str, Any]) -> str:
    return str(frame.get("event_id") or frame["message_id"])


@dataclass
class V1:
    """One socket."""

    socket: ClientConnection
    acks: bool = True  # acknowledge each event at once
    got: list[dict[str, Any]] = field(default_factory=list)
    closed: tuple[int, str] | None = None

    async def read(self) -> None:
        try:
            async for text in self.socket:
                frame = json.loads(text)
                ANSWER.validate_python(frame, strict=True)
                self.got.append(frame)
                if self.acks and frame["type"] in EVENTS:
                    await self.say(type="ack", ticket_id=frame["ticket_id"], position=position_of(frame))
        except ConnectionClosed:
            pass
        self.closed = (self.socket.close_code or 0, self.socket.close_reason or "")

    async def say(self, **frame: Any) -> None:
        await self.socket.send(json.dumps(frame))

    def of(self, *kinds: str, ticket: str | None = None) -> list[dict[str, Any]]:
        """The frames of some types, in order."""
        return [f for f in self.got if f["type"] in kinds and (ticket is None or f.get("ticket_id") == ticket)]

    def events(self, ticket: str | None = None) -> list[dict[str, Any]]:
        return self.of(*EVENTS, ticket=ticket)

    def ids(self, ticket: str | None = None) -> list[str]:
        """Positions of the events received."""
        return [position_of(frame) for frame in self.events(ticket)]

    async def one(self, kind: str, count: int = 1, **fields: Any) -> dict[str, Any]:
        """Wait for the *count*th frame of a type with these fields."""

        def found() -> list[dict[str, Any]]:
            frames = [f for f in self.of(kind) if all(f.get(name) == value for name, value in fields.items())]
            return frames if len(frames) >= count else []

        return (await until(found))[count - 1]

    async def until_events(self, count: int, ticket: str | None = None) -> None:
        await until(lambda: len(self.ids(ticket)) >= count)

    async def ended(self) -> tuple[int, str]:
        """Wait for the end; return close code and reason."""
        return await until(lambda: self.closed)

    async def subscribe(self, ticket: str, **options: Any) -> dict[str, Any]:
        """Subscribe and return the answer."""
        count = len(self.of("subscribed", ticket=ticket)) + 1
        await self.say(type="subscribe", ticket_id=ticket, **options)
        return await self.one("subscribed", count, ticket_id=ticket)

    def in_order(self, ticket: str) -> bool:
        """Whether each event follows the one before it, from the position told."""
        at = None
        for frame in self.got:
            if frame.get("ticket_id") != ticket:
                continue
            if frame["type"] in ("subscribed", "caught_up"):
                at = frame["position"]
            elif frame["type"] in EVENTS:
                if frame["prev_id"] != at:
                    return False
                at = position_of(frame)
        return True


async def open_v1(tier: Tier, *, acks: bool = True, **options: Any) -> V1:
    """Open a socket that has said nothing yet."""
    socket = await tier.stack.enter_async_context(
        connect(f"{tier.url}/", subprotocols=[Subprotocol(SUBPROTOCOL)], **options)
    )
    client = V1(socket, acks)
    tier.stack.push_async_callback(end, asyncio.create_task(client.read()))
    return client


async def v1(tier: Tier, user: str = "1", *, acks: bool = True, **fields: Any) -> V1:
    """Open a socket and connect as *user*; *fields* go into the connect frame."""
    client = await open_v1(tier, acks=acks)
    await client.say(type="connect", user=user, **fields)
    await client.one("connected")
    return client


async def change(tier: Tier, target: Confirmed, text: str | None) -> Confirmed:
    """Delete a message, or give it another text, as a worker does."""
    worker = tier.worker
    made = worker.make(target.ticket_id, text or "", "moderator")
    kind: Literal["message_deleted", "message_updated"] = "message_deleted" if text is None else "message_updated"
    event = made._replace(kind=kind, target_id=target.message_id)
    number = worker.bus.keys.partition_of(event.ticket_id)
    status: Literal["deletion", "update"] = "deletion" if text is None else "update"
    at = event.position
    row = ArchiveRow(
        event.ticket_id, at.ms, at.seq, number, event.sender_id, event.message, status, event.timestamp,
        original_id=target.message_id,
    )  # fmt: skip
    assert await worker.archive.change(row)
    partition = Partition(worker.bus, number, worker.shared)
    lease = await partition.acquire("test")
    assert not isinstance(lease, int)
    await partition.confirm(
        lease, [Settlement(event.message_id, "change", event.ticket_id, event_tail(event), encode_confirmed(event))]
    )
    await partition.release(lease)
    return event
