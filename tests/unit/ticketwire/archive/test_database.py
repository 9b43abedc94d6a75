"""Foreign exceptions become ours by class: what passes, what never will, and what is a bug."""

from __future__ import annotations

import asyncpg
import pytest
from asyncpg.exceptions._base import DataError as ClientDataError

from ticketwire.archive.database import translate
from ticketwire.errors import Rejected, Unavailable


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (ConnectionRefusedError(), Unavailable),
        (ConnectionResetError(), Unavailable),
        (TimeoutError(), Unavailable),
        (asyncpg.ConnectionDoesNotExistError(), Unavailable),
        (asyncpg.InterfaceError("connection is closed"), Unavailable),
        (asyncpg.TooManyConnectionsError(), Unavailable),
        (asyncpg.DiskFullError(), Unavailable),
        (asyncpg.OutOfMemoryError(), Unavailable),
        (asyncpg.AdminShutdownError(), Unavailable),
        (asyncpg.CrashShutdownError(), Unavailable),
        (asyncpg.CannotConnectNowError(), Unavailable),
        (asyncpg.QueryCanceledError(), Unavailable),
        (asyncpg.ReadOnlySQLTransactionError(), Unavailable),
        (asyncpg.SerializationError(), Unavailable),
        (asyncpg.DeadlockDetectedError(), Unavailable),
        (asyncpg.LockNotAvailableError(), Unavailable),
        (asyncpg.InvalidPasswordError(), Unavailable),
        (asyncpg.InvalidCatalogNameError(), Unavailable),
        (asyncpg.UndefinedTableError(), Unavailable),
        (asyncpg.UndefinedColumnError(), Unavailable),
        (asyncpg.InsufficientPrivilegeError(), Unavailable),
        (asyncpg.PostgresIOError(), Unavailable),
        (asyncpg.DataCorruptedError(), Unavailable),
        (asyncpg.InvalidCachedStatementError(), Unavailable),
        (ClientDataError("invalid input for query argument $1"), Rejected),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), Rejected),
        (asyncpg.CharacterNotInRepertoireError(), Rejected),
        (asyncpg.UntranslatableCharacterError(), Rejected),
        (asyncpg.StringDataRightTruncationError(), Rejected),
        (asyncpg.InvalidTextRepresentationError(), Rejected),
        (asyncpg.DatetimeFieldOverflowError(), Rejected),
        (asyncpg.CheckViolationError(), Rejected),
        (asyncpg.NotNullViolationError(), Rejected),
        (asyncpg.UniqueViolationError(), Rejected),
        (asyncpg.ProgramLimitExceededError(), Rejected),
        (asyncpg.PostgresSyntaxError(), type(None)),
        (asyncpg.InternalClientError(), Unavailable),
        (KeyError("x"), type(None)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value.__name__,
)
def test_what_asyncpg_raises_is_an_outage_a_refusal_or_a_bug(exc: Exception, kind: type) -> None:
    """To bury a message for an outage loses it; to retry a refusal for ever stops its partition."""
    ours = translate(exc)
    assert type(ours) is kind
    if isinstance(ours, Rejected):
        assert ours.code == "archive_refused"


def test_no_text_of_postgresql_goes_into_a_refusal() -> None:
    """A failing row is quoted in the server's detail: the sender's words must not reach a log that way."""
    exc = asyncpg.PostgresError.new(
        {"C": "23514", "M": "new row violates", "D": "Failing row contains (private).", "n": "messages_status"}
    )
    ours = translate(exc)
    assert str(ours) == "archive_refused: PostgreSQL says CheckViolationError (23514), constraint messages_status"
