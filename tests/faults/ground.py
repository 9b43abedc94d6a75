"""The Redis and the PostgreSQL that a stack stands on, and how they are brought down and up again."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from pathlib import Path

from ticketwire.embedded.postgres_server import EmbeddedPostgres
from ticketwire.embedded.process import EmbeddedServer
from ticketwire.embedded.redis_server import EmbeddedRedis


@dataclass(frozen=True, slots=True)
class Ground:
    """Servers, the database in use, and a folder for logs."""

    redis: EmbeddedRedis
    postgres: EmbeddedPostgres
    database_url: str
    folder: Path


def kill(server: EmbeddedServer) -> None:
    """SIGKILL, and collect it. PostgreSQL's backends notice and end by themselves."""
    assert server.process is not None
    server.process.kill()
    server.process.wait()


async def bring_up(server: EmbeddedServer) -> None:
    """Start a server that was killed or stopped, on its old files and port. From the main thread."""
    server.launch()
    await asyncio.to_thread(server.wait_ready)


async def mend(server: EmbeddedServer) -> None:
    """Whatever was done to it: let it run."""
    if server.alive:
        assert server.process is not None
        server.process.send_signal(signal.SIGCONT)
    else:
        await bring_up(server)
