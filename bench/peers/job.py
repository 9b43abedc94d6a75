"""The job as the peers do it, one message at a time: validate, insert, XADD to the log, PUBLISH the id."""

from __future__ import annotations

import os
from typing import Any

import asyncpg
from pydantic import BaseModel, Field

REDIS_URL = os.environ["REDIS_URL"]
DATABASE_URL = os.environ["DATABASE_URL"]
NAME = os.environ.get("NAME", "w0")
STREAM, GROUP = "ingest", "workers"
IDLE_MS = 5_000  # entries idle for so long may be taken over: as long as our lease

INSERT = (
    "INSERT INTO peer_messages (ticket_id, sender_id, body, client_message_id, sent_at) "
    "VALUES ($1, $2, $3, $4, now()) ON CONFLICT DO NOTHING"
)


class Message(BaseModel):
    ticket_id: str = Field(min_length=1, max_length=128)
    sender_id: str = Field(min_length=1, max_length=128)
    message: str = Field(min_length=1, max_length=8_000)
    client_message_id: str = Field(min_length=1, max_length=128)


async def connect() -> asyncpg.Connection[Any]:
    return await asyncpg.connect(DATABASE_URL)


async def handle(message: Message, redis: Any, database: asyncpg.Connection[Any]) -> None:
    await database.execute(INSERT, message.ticket_id, message.sender_id, message.message, message.client_message_id)
    fields = {"sender_id": message.sender_id, "message": message.message, "key": message.client_message_id}
    entry_id = await redis.xadd("chat:" + message.ticket_id, fields)
    await redis.publish("channel:chat:" + message.ticket_id, entry_id)
