"""Bring a database to the newest schema: `ticketwire migrate`.

Alembic keeps the order and the record; the migrations themselves are plain SQL. It reaches PostgreSQL through
asyncpg, like everything else here.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from ticketwire.archive.database import connect, open_database, translate
from ticketwire.errors import SettingsError, Unavailable

_LOCK = 0x7469636B6574  # "ticket"; any number will do as long as it is ours
_CONNECT_S = 10.0


def upgrade(database_url: str) -> None:
    """Apply what is missing, all of it or nothing. Safe to repeat, and when several run at once.

    Raises Unavailable when PostgreSQL cannot be reached, SettingsError when its schema is one this
    version does not know. Not for use inside an event loop: see `upgrade_async`.
    """
    asyncio.run(upgrade_async(database_url))


async def upgrade_async(database_url: str) -> None:
    """Do what `upgrade` does, from inside an event loop."""
    # asyncpg reads the URL itself, so that sslmode, several hosts and socket directories mean here what
    # they mean to the tiers; SQLAlchemy would understand them differently.
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: connect(database_url, timeout=_CONNECT_S),
        poolclass=NullPool,
    )
    try:
        async with engine.begin() as connection:
            # Held until the commit: whoever comes second waits, and then finds nothing left to do.
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            await connection.run_sync(_run_migrations)
    except CommandError as exc:
        raise SettingsError(f"the database schema is not one this version knows: {exc}") from exc
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, DBAPIError) as exc:
        ours = translate(exc.orig.__cause__ or exc) if isinstance(exc, DBAPIError) and exc.orig else translate(exc)
        if isinstance(ours, Unavailable):
            raise ours from exc
        raise
    finally:
        await engine.dispose()


async def check(database_url: str) -> None:
    """Return if the schema is new enough for this code; see `Database.check_schema` for what it raises."""
    async with open_database(database_url, size=1, timeout_s=_CONNECT_S) as database:
        await database.check_schema()


def configuration() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def _run_migrations(connection: Connection) -> None:
    config = configuration()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
