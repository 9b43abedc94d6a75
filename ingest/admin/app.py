"""The admin API's ASGI application: parse, call, answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypedDict

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from ingest.admin.guard import Guard
from ingest.admin.jobs import Job
from ingest.admin.partitions import partition_json, workers_json
from ingest.admin.requests import (
    AuditRequest,
    DeleteRequest,
    HeldRequest,
    ListRequest,
    MuteRequest,
    PurgeRequest,
    ReplayRequest,
    WhyRequest,
    from_json,
    from_query,
)
from ingest.admin.service import Admin, open_admin
from ingest.exchange import INTERNAL, error_body, to_json
from ingest.settings import IngestSettings
from ticketwire.bus.load import measure
from ticketwire.bus.overview import partitions, workers
from ticketwire.errors import Rejected, TicketwireError, Unavailable

MAX_BODY_BYTES = 262_144
_CODES = {404: "not_found", 405: "method_not_allowed"}
Call = Callable[[Admin, Request], Awaitable[Response]]


class State(TypedDict):
    """What the lifespan hands to the requests."""

    admin: Admin


def create_admin_app(settings: IngestSettings) -> Starlette:
    """Build the application. Nothing is opened here: that is the lifespan's part."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[State]:
        async with open_admin(settings) as admin:
            yield {"admin": admin}

    key = settings.admin_key.get_secret_value() if settings.admin_key is not None else None
    return Starlette(
        routes=[
            _route("/admin/dead-letters", list_letters),
            _route("/admin/dead-letters/replay", replay, "POST"),
            _route("/admin/dead-letters/purge", purge, "POST"),
            _route("/admin/dead-letters/{id}", show_letter),
            _route("/admin/jobs/{id}", show_job),
            _route("/admin/partitions", show_partitions),
            _route("/admin/workers", show_workers),
            _route("/admin/scale", scale),
            _route("/admin/messages/{ticket}/{message_id}", show_message),
            _route("/admin/held", list_held),
            _route("/admin/held/{ticket}/{message_id}/approve", approve, "POST"),
            _route("/admin/held/{ticket}/{message_id}/reject", reject, "POST"),
            _route("/admin/senders/{sender}/mute", mute, "POST"),
            _route("/admin/senders/{sender}/unmute", unmute, "POST"),
            _route("/admin/messages/{ticket}/{message_id}", delete_message, "DELETE"),
            _route("/admin/audit", show_audit),
        ],
        lifespan=lifespan,
        middleware=[Middleware(Guard, key=key)],
        exception_handlers={HTTPException: _http_error, Exception: _fault},
    )


async def list_letters(admin: Admin, request: Request) -> Response:
    return _json(await admin.letters.page(from_query(ListRequest, request.query_params.multi_items())))


async def show_letter(admin: Admin, request: Request) -> Response:
    return _json(await admin.letters.show(request.path_params["id"]))


async def replay(admin: Admin, request: Request) -> Response:
    """200 with the whole job when it is done at once, else 202 and where to ask."""
    asked = from_json(ReplayRequest, await _body(request))
    if asked.ids is not None:
        shown: dict[str, Any] = {"ids": asked.ids[:100], "count": len(asked.ids)}
    else:
        assert asked.filter is not None
        shown = {"filter": asked.filter.given()}
    job = Job("replay", request.state.actor, asked.why or "", {**shown, "rate": asked.rate}, dry_run=asked.dry_run)
    done = await admin.runner.run(job, lambda job: admin.letters.replay(job, asked, admin.runner))
    return _job(job, done)


async def purge(admin: Admin, request: Request) -> Response:
    """As `replay`."""
    asked = from_json(PurgeRequest, await _body(request))
    job = Job("purge", request.state.actor, asked.why, {"filter": asked.filter.given(), "expected": asked.expected})
    done = await admin.runner.run(job, lambda job: admin.letters.purge(job, asked, admin.runner))
    return _job(job, done)


async def show_job(admin: Admin, request: Request) -> Response:
    return _json(await admin.runner.find(request.path_params["id"]))


async def show_partitions(admin: Admin, _request: Request) -> Response:
    views, earlier = await partitions(admin.bus), admin.earlier()
    shown = [partition_json(view, before) for view, before in zip(views, earlier, strict=True)]
    return _json({"partitions": shown, "backlog": sum(view.backlog for view in views)})


async def show_workers(admin: Admin, _request: Request) -> Response:
    now, live = await workers(admin.bus)
    return _json({"workers": workers_json(now, live, await partitions(admin.bus)), "at_ms": now})


async def scale(admin: Admin, _request: Request) -> Response:
    """One number for an autoscaler: entries accepted and not yet settled, of all partitions."""
    load = await measure(admin.bus, admin.redis_timeout_s)
    return _json({"backlog": sum(load.backlog)})


async def show_message(admin: Admin, request: Request) -> Response:
    return _json(await admin.tracer.trace(request.path_params["ticket"], request.path_params["message_id"]))


async def list_held(admin: Admin, request: Request) -> Response:
    asked = from_query(HeldRequest, request.query_params.multi_items())
    return _json(await admin.held.page(asked.limit, asked.cursor))


async def approve(admin: Admin, request: Request) -> Response:
    why = from_json(WhyRequest, await _body(request)).why
    return _json(await admin.held.approve(**request.path_params, actor=request.state.actor, why=why))


async def reject(admin: Admin, request: Request) -> Response:
    why = from_json(WhyRequest, await _body(request)).why
    return _json(await admin.held.reject(**request.path_params, actor=request.state.actor, why=why))


async def mute(admin: Admin, request: Request) -> Response:
    asked = from_json(MuteRequest, await _body(request))
    return _json(await admin.senders.mute(request.path_params["sender"], asked.seconds, request.state.actor, asked.why))


async def unmute(admin: Admin, request: Request) -> Response:
    why = from_json(WhyRequest, await _body(request)).why
    return _json(await admin.senders.unmute(request.path_params["sender"], request.state.actor, why))


async def delete_message(admin: Admin, request: Request) -> Response:
    """202: the event has its place, and the text is gone within the time a message takes."""
    asked = from_json(DeleteRequest, await _body(request))
    done = await admin.changes.delete(
        **request.path_params, replacement=asked.replacement, actor=request.state.actor, why=asked.why
    )
    return _json(done, 202)


async def show_audit(admin: Admin, request: Request) -> Response:
    asked = from_query(AuditRequest, request.query_params.multi_items())
    rows = await admin.audit.page(
        asked.before, limit=asked.limit, actor=asked.actor, action=asked.action, subject=asked.subject
    )
    following = rows[-1].number if len(rows) == asked.limit and rows[-1].number > 1 else None
    return _json({"rows": [row._asdict() for row in rows], "next_before": following})


def _route(path: str, call: Call, method: str = "GET") -> Route:
    async def endpoint(request: Request) -> Response:
        try:
            return await call(request.state.admin, request)
        except TicketwireError as exc:
            headers = {"Retry-After": str(exc.retry_after_s)} if isinstance(exc, Unavailable) else None
            return Response(error_body(exc), exc.problem.status, headers, "application/json")

    return Route(path, endpoint, methods=[method])


async def _body(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # A page of another origin can post a form or text without being asked first, but no JSON.
    if kind != "application/json":
        raise Rejected("unsupported_media_type", f"Content-Type is {kind[:80]!r}, allowed: application/json")
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise Rejected("too_large", f"the body has over {MAX_BODY_BYTES:,} bytes, allowed: {MAX_BODY_BYTES:,}")
            chunks.append(chunk)
    except ClientDisconnect:
        raise Rejected("bad_request", "the connection was closed before the body was complete") from None
    return b"".join(chunks)


def _json(value: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(value), status, {"Cache-Control": "no-store", **(headers or {})}, "application/json")


def _job(job: Job, done: bool) -> Response:
    return _json(job.to_json()) if done else _json(job.to_json(), 202, {"Location": f"/admin/jobs/{job.job_id}"})


async def _http_error(request: Request, exc: Exception) -> Response:
    """Starlette's own refusals: no such path, or not with this method."""
    assert isinstance(exc, HTTPException)
    allowed = (exc.headers or {}).get("Allow")
    found = f"{request.method} {request.url.path[:80]}"
    detail = f"the method of {found} is not allowed here, allowed: {allowed}" if allowed else f"there is no {found}"
    body = error_body(Rejected(_CODES.get(exc.status_code, "bad_request"), detail))
    return Response(body, exc.status_code, exc.headers, "application/json")


async def _fault(_request: Request, _exc: Exception) -> Response:
    """A bug. uvicorn logs the traceback."""
    return Response(INTERNAL, 500, media_type="application/json")
