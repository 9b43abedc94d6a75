"""One Redis server: its connections, one exchange with it, and what its errors mean.

redis-py supplies the connection (TLS, AUTH, RESP parser); pools, retries and routing are ours, because its
defaults resend writes and raise at 100 connections. Commands are packed by hiredis, six times
as fast as redis-py's own packing.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ticketwire.errors import Fenced, TicketwireError, Unavailable

Argument = str | int | float | bytes
Command = tuple[Argument, ...]
Address = tuple[str, int]

CONNECT_TIMEOUT_S = 1.0
MOST_IDLE = 128  # idle connections kept per server; a worker has one for each partition it owns

# Replies that pass by themselves. Redis 6.2 wraps an error raised inside a script in a sentence of its
# own, so the code is looked for anywhere in the text.
_PASSING = re.compile(
    r"\b(READONLY|LOADING|OOM|MISCONF|NOREPLICAS|CLUSTERDOWN|MASTERDOWN|TRYAGAIN|BUSY|max number of clients)\b"
)
# After these the server is not the one to write to: every connection to it is dropped and resolved anew.
_WRONG_SERVER = re.compile(r"\b(READONLY|MASTERDOWN|CLUSTERDOWN)\b")


class GroupLost(TicketwireError):
    """The ingest stream or its consumer group is gone: take the partition over again."""

    def __init__(self, detail: str) -> None:
        super().__init__("internal", detail)


class Regressed(TicketwireError):
    """Redis lost what this owner had settled (failover, an old file): take the partition over again."""

    def __init__(self, detail: str) -> None:
        super().__init__("internal", detail)


def translate(exc: Exception) -> Exception:
    """Turn an error of redis-py into one of ours; an error nobody expects stays itself, as a bug."""
    text = f"{getattr(exc, 'status_code', None) or ''} {exc}".strip()
    if isinstance(exc, ResponseError) and "FENCED" in text:
        return Fenced(text)
    if isinstance(exc, ResponseError) and "REGRESSED" in text:
        return Regressed(text)
    if isinstance(exc, ResponseError) and "NOGROUP" in text:
        return GroupLost(text)
    if isinstance(exc, (RedisConnectionError, RedisTimeoutError, OSError, TimeoutError)) or _PASSING.search(text):
        return Unavailable(f"Redis: {text or type(exc).__name__}")
    return exc


def pack(commands: Sequence[Command]) -> list[bytes]:
    """Encode commands for the wire. Lone surrogates (invalid UTF-8 read before) become their bytes again."""
    try:
        return [hiredis.pack_command(command) for command in commands]  # type: ignore[arg-type]  # stub says 1-tuple
    except UnicodeEncodeError:
        return [
            hiredis.pack_command(tuple(_to_bytes(a) for a in command))  # type: ignore[arg-type]
            for command in commands
        ]


def _to_bytes(argument: Argument) -> Argument:
    return argument.encode("utf-8", "surrogateescape") if isinstance(argument, str) else argument


def make_connection(kwargs: dict[str, Any]) -> AbstractConnection:
    """Make an unconnected connection from the keyword arguments of redis-py's `parse_url`."""
    kwargs = dict(kwargs)
    kind = kwargs.pop("connection_class", Connection)
    if kind not in (Connection, SSLConnection, UnixDomainSocketConnection):
        raise TypeError(f"connection class {kind} is not one we know")
    made: AbstractConnection = kind(
        **kwargs,
        protocol=2,  # pushes and maps of RESP3 buy nothing here (measured: no difference in speed)
        decode_responses=True,
        encoding_errors="surrogateescape",  # bytes that are not UTF-8 survive the way to the dead letters
        socket_timeout=None,  # one deadline per exchange, below, instead of one timer per reply
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_read_size=65_536,
        driver_info=None,
    )
    return made


class Node:
    """One Redis server and the idle connections to it."""

    def __init__(self, connect: Callable[[], Awaitable[AbstractConnection]]) -> None:
        self._connect = connect
        self._idle: list[AbstractConnection] = []

    async def open(self) -> AbstractConnection:
        """Return a connected connection that the caller owns. Raises Unavailable."""
        try:
            async with asyncio.timeout(2 * CONNECT_TIMEOUT_S):
                return await self._connect()
        except (RedisError, OSError, TimeoutError) as exc:
            raise translate(exc) from exc

    async def exchange(self, commands: Sequence[Command], timeout: float) -> list[Any]:
        """Send *commands* in one write on one connection; return the replies in order.

        An error reply stands in the list as the exception, since the commands after it were carried
        out all the same. Raises Unavailable when the connection failed: the commands may or may
        not have been carried out. After a failure or a cancellation the connection is never used again,
        as a late reply would be taken for the next one's.
        """
        connection = await self._borrow()
        replies: list[Any] = []
        try:
            async with asyncio.timeout(timeout):
                await connection.send_packed_command(pack(commands), check_health=False)
                for _ in commands:
                    try:
                        replies.append(await connection.read_response(timeout=math.inf))
                    except ResponseError as exc:
                        replies.append(exc)
        except BaseException as exc:
            await close(connection)
            if isinstance(exc, (RedisError, OSError, TimeoutError)):
                raise translate(exc) from exc
            raise
        if any(isinstance(reply, ResponseError) and _WRONG_SERVER.search(str(reply)) for reply in replies):
            await close(connection)
            await self.drop_idle()
        elif len(self._idle) < MOST_IDLE:
            self._idle.append(connection)
        else:
            await close(connection)
        return replies

    async def _borrow(self) -> AbstractConnection:
        while self._idle:
            connection = self._idle.pop()
            # A connection that the server closed meanwhile reads as end of file.
            with suppress(RedisError, OSError):
                if connection.is_connected and not await connection.can_read():
                    return connection
            await close(connection)
        return await self.open()

    async def drop_idle(self) -> None:
        """Close the idle connections, so that the next use resolves and connects anew."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await close(connection)


async def close(connection: AbstractConnection) -> None:
    """Close without waiting for the other side."""
    with suppress(RedisError, OSError):
        await connection.disconnect(nowait=True)
