"""The worker that tutorials show: one shared group, one entry at a time, XAUTOCLAIM for what others left."""

from __future__ import annotations

import time

import redis.asyncio
import uvloop

from bench.peers.job import GROUP, IDLE_MS, NAME, REDIS_URL, STREAM, Message, connect, handle


async def main() -> None:
    redis_client = redis.asyncio.Redis.from_url(REDIS_URL, socket_timeout=None, decode_responses=True, protocol=2)
    database = await connect()
    claimed = time.monotonic()
    while True:
        reply = await redis_client.xreadgroup(GROUP, NAME, {STREAM: ">"}, count=1, block=1_000)
        entries = reply[0][1] if reply else []
        if time.monotonic() - claimed > 2:
            claimed = time.monotonic()
            entries += (await redis_client.xautoclaim(STREAM, GROUP, NAME, IDLE_MS, count=100))[1]
        for entry_id, fields in entries:
            await handle(Message.model_validate(fields), redis_client, database)
            await redis_client.xack(STREAM, GROUP, entry_id)


if __name__ == "__main__":
    uvloop.run(main())
