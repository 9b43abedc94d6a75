"""Who may call the admin API: whoever has the key."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ingest.admin.requests import actor_of
from ingest.exchange import error_body
from ticketwire.errors import Rejected

NOBODY = "admin"  # in the record, when the caller does not say who stands behind the key


class Guard:
    """ASGI middleware: lets a request in whose bearer token is the key, and says in `state.actor` who it is.

    The key proves the right; `X-Actor` is a statement of whoever has it, written to the record as it is.
    """

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app = app
        self._key = key.encode() if key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            try:
                self._check(headers.getlist("authorization"))
                scope["state"]["actor"] = actor_of(headers.getlist("x-actor")) or NOBODY
            except Rejected as exc:
                more = {"WWW-Authenticate": "Bearer"} if exc.code == "unauthorized" else None
                await Response(error_body(exc), exc.problem.status, more, "application/json")(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, given: list[str]) -> None:
        if self._key is None:
            raise Rejected("forbidden", "the admin API is closed: INGEST_ADMIN_KEY is not set")
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        # The comparison takes the same time wherever the two differ; headers are Latin-1.
        if not hmac.compare_digest(token.strip().encode("latin-1"), self._key) or scheme.lower() != "bearer":
            raise Rejected("unauthorized", "Authorization must be `Bearer <key>` with the key of INGEST_ADMIN_KEY")
