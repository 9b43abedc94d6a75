"""Who somebody is and what they may do: the one place where rights are checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from schemas.frames import Connect
from ticketwire.errors import Rejected


@dataclass(frozen=True, slots=True)
class Identity:
    """The user behind a socket."""

    user: str
    role: str


class Access:
    """Asked at connect, at every subscription and resume, for history, and for all tickets at refresh.

    With `TICKETWIRE_AUTH=off` everybody is who they say and may do everything.
    """

    def __init__(self, auth: Literal["off"]) -> None:
        self._auth = auth

    async def identify(self, frame: Connect) -> Identity:
        """Say who sent *frame*. Raises Rejected (`unauthorized`, `missing_parameters`)."""
        if frame.user is None:
            raise Rejected("missing_parameters", f"user is missing: it must be given while auth is {self._auth}")
        return Identity(frame.user, frame.role)

    async def renew(self, identity: Identity, token: str) -> Identity:
        """Return who *identity* is by a new token. Raises Rejected; another user's token is refused."""
        return identity

    async def may_read(self, identity: Identity | None, ticket: str) -> None:
        """Return if *identity* may read *ticket*; None is somebody of whom nothing is known. Raises Rejected."""
