"""One pool of PostgreSQL connections: opened lazily, errors translated, dead connections replaced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from ticketwire.errors import Rejected, SettingsError, Unavailable

Record: TypeAlias = "asyncpg.Record"
Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

VERSIONS = Path(__file__).parent / "migrations" / "versions"

# PostgreSQL will refuse the same row again: its values are wrong for their columns (22), break a constraint (23)
# or are too large for an index or a statement (54).
_REFUSALS = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
)
# What passes: connections (08), logins (28), transactions (25, 40), resources (53), an object in use (55), operators
# (57), the server's disk (58) and its internals (XX), a database not there yet (3D), a plan gone stale (0A).
# A missing table, column or privilege (42) is here too: it is the database that is not ready, and to call it the
# message's fault would bury every message.
_OUTAGES = (
    asyncpg.PostgresConnectionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidTransactionStateError,
    asyncpg.TransactionRollbackError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresSystemError,
    asyncpg.InternalServerError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidCachedStatementError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InterfaceError,
    asyncpg.ProtocolError,
    # A server that says goodbye while a statement is being sent confuses asyncpg's state machine ("cannot switch
    # to state 12"): seen in one of three stops of PostgreSQL under load.
    asyncpg.InternalClientError,
    OSError,  # TimeoutError among them
)


def translate(exc: BaseException) -> Rejected | Unavailable | None:
    """Say what a foreign exception means to us; None: a bug, which should end the process loudly.

    The detail names class, SQLSTATE and constraint only. PostgreSQL's own texts, and asyncpg's about arguments,
    may quote the row, and a message body must never reach a log.
    """
    # asyncpg's own DataError (a value it cannot encode) is not exported; this is what it derives from.
    if isinstance(exc, asyncpg.InterfaceError) and isinstance(exc, ValueError):
        return Rejected("archive_refused", "a value does not fit its column's type")
    if isinstance(exc, UnicodeEncodeError):
        return Rejected("archive_refused", "a text is not valid UTF-8")
    if isinstance(exc, _REFUSALS):
        constraint = getattr(exc, "constraint_name", None)
        where = f", constraint {constraint}" if constraint else ""
        return Rejected("archive_refused", f"PostgreSQL says {type(exc).__name__} ({exc.sqlstate}){where}")
    if isinstance(exc, _OUTAGES):
        state = getattr(exc, "sqlstate", None)
        return Unavailable(f"PostgreSQL is out of reach: {type(exc).__name__}{f' ({state})' if state else ''}")
    return None


class Database:
    """A pool and its limits. Use `open_database`; safe to share between tasks of one event loop."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection; statements on it may each take the command timeout.

        Raises Rejected or Unavailable for whatever PostgreSQL or the network raises inside. A cancelled caller
        leaves no connection behind: the statement is cancelled on the server, or the connection is thrown away.
        """
        try:
            # The limit holds for the wait for a free connection and for handing it back: a server that
            # stopped answering must not keep a caller that has already given up.
            async with self._pool.acquire(timeout=self._timeout_s) as connection:
                try:
                    yield connection
                except asyncpg.InternalClientError:
                    connection.terminate()  # it can never be used again
                    raise
        except (
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
            OSError,
            UnicodeEncodeError,
        ) as exc:
            if isinstance(exc, asyncpg.ReadOnlySQLTransactionError):
                # A failover turned this server into a standby; new connections find the primary again.
                await self._pool.expire_connections()
            ours = translate(exc)
            if ours is None:
                raise
            if isinstance(ours, Rejected):
                raise ours from None  # the cause would print the refused row in a traceback
            raise ours from exc

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection inside a transaction: committed at the end, rolled back by any exception."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def execute(self, sql: str, *args: Any) -> str:
        """Run one statement in its own transaction and return its command tag, such as `INSERT 0 500`."""
        async with self.connection() as connection:
            return await connection.execute(sql, *args)

    async def fetch(self, sql: str, *args: Any) -> Sequence[Record]:
        async with self.connection() as connection:
            return await connection.fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: Any) -> Record | None:
        async with self.connection() as connection:
            return await connection.fetchrow(sql, *args)

    async def check_schema(self) -> None:
        """Return if the tables are those this code was written for, or newer: migrations only ever add.

        Raises SettingsError with one line when they are missing or older, Unavailable when nobody answers.
        """
        async with self.connection() as connection:
            try:
                found = await connection.fetchval("SELECT max(version_num) FROM alembic_version")
            except asyncpg.UndefinedTableError:
                found = None
        if found is None:
            raise SettingsError(f"the database has no tables of ours, {head()} is needed: run `ticketwire migrate`")
        if found < head():
            raise SettingsError(f"the database schema is at {found}, {head()} is needed: run `ticketwire migrate`")


def head() -> str:
    """Return the newest schema revision: migration files are named by it, `0001_messages.py` first."""
    return max(path.name.partition("_")[0] for path in VERSIONS.glob("[0-9]*.py"))


@asynccontextmanager
async def open_database(database_url: str, *, size: int, timeout_s: float) -> AsyncIterator[Database]:
    """Open a pool of at most *size* connections.

    Nothing is connected yet, so a tier can start before its database; the first use raises SettingsError for a URL
    that cannot be read. *timeout_s* limits the wait for a free connection, connecting, each statement, and closing.
    """
    pool = asyncpg.create_pool(
        database_url,
        connect=connect,
        min_size=0,
        max_size=size,
        timeout=timeout_s,
        command_timeout=timeout_s,
        # Prepared once per connection and kept: the statements are few and never change.
        max_cached_statement_lifetime=0,
        # Our statements leave no session state, so the usual RESET ALL would be a round trip for nothing.
        reset=_keep,
        server_settings={"application_name": "ticketwire"},
    )
    await pool
    try:
        yield Database(pool, timeout_s)
    finally:
        try:
            async with asyncio.timeout(timeout_s):
                await pool.close()
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            # Nothing is left to be saved: a server that is away or mute must not hold up the end of a process.
            pool.terminate()


async def connect(*args: Any, **options: Any) -> asyncpg.Connection[asyncpg.Record]:
    """Do what `asyncpg.connect` does, but raise SettingsError for a URL that will never work."""
    try:
        return await asyncpg.connect(*args, **options)
    except asyncpg.ClientConfigurationError as exc:
        raise SettingsError(f"the database URL cannot be used: {exc}") from exc
    except ValueError:
        # Such as a port that is no number: often the rest of a password with a bare `/` or `@`, so it is not shown.
        raise SettingsError(
            "the database URL cannot be used: it must be postgresql://user:password@host:5432/name, "
            "with special characters of the password percent-encoded"
        ) from None


async def _keep(_connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Hand a connection back to the pool as it is; an open transaction was rolled back before."""
