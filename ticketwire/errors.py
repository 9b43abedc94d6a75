"""The two kinds of failure every tier tells apart, by class and never by text."""

from __future__ import annotations

from schemas.problems import PROBLEMS, Problem


class TicketwireError(Exception):
    """Base of all errors of ours. *code* is a key of `schemas.problems.PROBLEMS`."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail  # one sentence: what was found, what is allowed; never a body or a token

    @property
    def problem(self) -> Problem:
        return PROBLEMS[self.code]


class Rejected(TicketwireError):
    """No retry will cure it: the input itself is wrong."""


class Unavailable(TicketwireError):
    """The same input may succeed later: Redis, PostgreSQL or a moderator is out of reach."""

    def __init__(self, detail: str, code: str = "unavailable", retry_after_s: int = 1) -> None:
        super().__init__(code, detail)
        self.retry_after_s = retry_after_s


class Fenced(TicketwireError):
    """The lease is not, or no longer, ours: stop working this partition at once."""

    def __init__(self, detail: str) -> None:
        super().__init__("internal", detail)


class SettingsError(TicketwireError):
    """A setting is wrong: the process must not start. The detail names the variable."""

    def __init__(self, detail: str) -> None:
        super().__init__("invalid", detail)
