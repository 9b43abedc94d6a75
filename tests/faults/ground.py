"""The Redis and the PostgreSQL that a stack stands on, and how they are brought down and up again."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
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


def pause(server: EmbeddedServer) -> None:
    """SIGSTOP to it and all its processes: connections stay open and nobody answers."""
    _send(server, signal.SIGSTOP)


def go_on(server: EmbeddedServer) -> None:
    _send(server, signal.SIGCONT)


def _send(server: EmbeddedServer, number: signal.Signals) -> None:
    started = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    for pid in (server.pid, *map(int, started)):
        with suppress(ProcessLookupError):  # a backend ended meanwhile
            os.kill(pid, number)


async def bring_up(server: EmbeddedServer) -> None:
    """Start a server that was killed or stopped, on its old files and port. From the main thread."""
    server.launch()
    await asyncio.to_thread(server.wait_ready)


async def mend(server: EmbeddedServer) -> None:
    """Whatever was done to it: let it run."""
    if server.alive:
        go_on(server)
    else:
        await bring_up(server)
