"""The ingest tier's ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ingest.batch import SendBatch
from ingest.exchange import INTERNAL, BodyReader, error_body
from ingest.fate import message_fate
from ingest.send import SendMessage
from ingest.service import Ingest, open_ingest
from ingest.settings import IngestSettings
from ticketwire.errors import Rejected
from ticketwire.telemetry.health import Health

_CODES = {404: "not_found", 405: "method_not_allowed"}


class State(TypedDict):
    """What the lifespan hands to the requests."""

    ingest: Ingest


def create_app(settings: IngestSettings, health: Health | None = None) -> Starlette:
    """Build the application. Nothing is opened here: that is the lifespan's part."""
    reader = BodyReader(settings.body_timeout_ms / 1000)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[State]:
        async with open_ingest(settings, health or Health()) as ingest:
            yield {"ingest": ingest}

    batch = SendBatch(reader, settings.max_batch_bytes, settings.max_batch_lines, settings.max_body_bytes)
    return Starlette(
        routes=[
            Route("/chat/send", SendMessage(reader, settings.max_body_bytes), methods=["POST"]),
            Route("/chat/batch", batch, methods=["POST"]),
            Route("/messages/{ticket}/{message_id}", message_fate),
        ],
        lifespan=lifespan,
        middleware=_cors(settings.cors_origins),
        exception_handlers={HTTPException: _http_error, Exception: _fault},
    )


def _cors(origins: tuple[str, ...]) -> list[Middleware]:
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Content-Type", "Idempotency-Key", "traceparent"],
            expose_headers=["Retry-After"],
        )
    ]


async def _http_error(request: Request, exc: Exception) -> Response:
    """Starlette's own refusals: no such path, or not with this method."""
    assert isinstance(exc, HTTPException)
    allowed = (exc.headers or {}).get("Allow")
    found = f"{request.method} {request.url.path[:80]}"
    detail = f"the method of {found} is not allowed here, allowed: {allowed}" if allowed else f"there is no {found}"
    body = error_body(Rejected(_CODES.get(exc.status_code, "bad_request"), detail))
    return Response(body, exc.status_code, exc.headers, "application/json")


async def _fault(_request: Request, _exc: Exception) -> Response:
    """A bug. The sender learns only that; uvicorn logs the traceback."""
    return Response(INTERNAL, 500, media_type="application/json")
