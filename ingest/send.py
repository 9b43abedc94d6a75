"""`POST /chat/send`: one message, as form or JSON. A bare ASGI endpoint of a Starlette route."""

from __future__ import annotations

from time import perf_counter

from starlette.types import Receive, Scope, Send

from ingest import metrics
from ingest.exchange import BodyReader, Gone, Headers, accepted, refused
from ingest.parsing import MISSING, Kind, idempotency_key, kind_of, read_fields, to_message, trace_of
from ingest.service import Ingest
from schemas.events import Submitted
from ticketwire.errors import Rejected, TicketwireError

_ALLOWED = (Kind.FORM, Kind.MULTIPART, Kind.JSON)
_KEY = b"idempotency-key"


class SendMessage:
    """Parse, submit, answer. Starlette has looked at path and method already."""

    def __init__(self, reader: BodyReader, max_body_bytes: int) -> None:
        self._reader = reader
        self._most = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = perf_counter()
        ingest: Ingest = scope["state"]["ingest"]
        headers: Headers = dict(scope["headers"])
        try:
            body = await self._reader.read(scope, receive, headers, self._most)
            message_id = await ingest.submit(self._message(scope, headers, body))
        except Gone:
            return
        except TicketwireError as exc:
            metrics.REFUSED.labels(exc.code).inc()
            await refused(send, exc)
        else:
            metrics.ACCEPTED.inc()
            await accepted(send, message_id)
        metrics.REQUEST.observe(perf_counter() - began)

    @staticmethod
    def _message(scope: Scope, headers: Headers, body: bytes) -> Submitted:
        if not body:
            raise Rejected("missing_parameters", MISSING)
        check_encoding(headers)
        content_type = headers.get(b"content-type")
        kind = kind_of(content_type, _ALLOWED)
        fields = read_fields(kind, content_type or b"", body)
        key = None
        if _KEY in headers:
            key = idempotency_key([value for name, value in scope["headers"] if name == _KEY])
        return to_message(fields, key, trace_of(headers.get(b"traceparent")))


def check_encoding(headers: Headers) -> None:
    """Refuse a compressed body: 128 kB of gzip can unpack to 128 MB, and no message needs it."""
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding != b"identity":
        shown = encoding[:40].decode("latin-1")
        raise Rejected("unsupported_media_type", f"Content-Encoding is {shown!r}, allowed: none")
