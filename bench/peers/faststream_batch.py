"""FastStream with batches of 100 of its own subscriber, and our best code inside the handler.

Needs the package `faststream[redis]`, which the benchmark's own virtual environment has (`make bench`).
"""

from __future__ import annotations

import asyncio
from typing import Any

import redis.asyncio
import uvloop
from faststream import FastStream
from faststream.redis import RedisBroker, StreamSub

from bench.peers.job import GROUP, IDLE_MS, INSERT, NAME, REDIS_URL, STREAM, Message, connect, handle

broker = RedisBroker(REDIS_URL, logger=None)
app = FastStream(broker, logger=None)
state: dict[str, Any] = {}
subscription = {"group": GROUP, "consumer": NAME, "polling_interval": 1_000}


@app.on_startup
async def start() -> None:
    state["database"] = await connect()
    state["redis"] = redis.asyncio.Redis.from_url(REDIS_URL, socket_timeout=None, decode_responses=True, protocol=2)
    state["lock"] = asyncio.Lock()  # one connection, two subscribers


@broker.subscriber(stream=StreamSub(STREAM, batch=True, max_records=100, **subscription))
async def many(batch: list[Message]) -> None:
    async with state["lock"]:
        rows = [(m.ticket_id, m.sender_id, m.message, m.client_message_id) for m in batch]
        await state["database"].executemany(INSERT, rows)
        pipe = state["redis"].pipeline(transaction=False)
        for m in batch:
            pipe.xadd(
                "chat:" + m.ticket_id, {"sender_id": m.sender_id, "message": m.message, "key": m.client_message_id}
            )
        ids = await pipe.execute()
        pipe = state["redis"].pipeline(transaction=False)
        for m, entry_id in zip(batch, ids, strict=True):
            pipe.publish("channel:chat:" + m.ticket_id, entry_id)
        await pipe.execute()


@broker.subscriber(
    stream=StreamSub(STREAM, group=GROUP, consumer=NAME + "-claim", polling_interval=500, min_idle_time=IDLE_MS)
)
async def left_by_others(message: Message) -> None:
    async with state["lock"]:
        await handle(message, state["redis"], state["database"])


if __name__ == "__main__":
    uvloop.run(app.run())
