"""`POST /chat/batch`: many messages as NDJSON, one result line per input line, in the same order."""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope, Send

from ingest import metrics
from ingest.exchange import NDJSON, BodyReader, Gone, Headers, answer, refused, to_json
from ingest.parsing import MISSING, Kind, kind_of, read_object, to_message, trace_of
from ingest.send import check_encoding
from ingest.service import Ingest
from ticketwire.errors import Rejected, TicketwireError

_BREATH = 50  # lines parsed between two looks at other requests: about a millisecond


class SendBatch:
    """Each line stands for itself: one that is refused takes no other along."""

    def __init__(self, reader: BodyReader, max_batch_bytes: int, max_lines: int, max_line_bytes: int) -> None:
        self._reader = reader
        self._most_bytes = max_batch_bytes
        self._most_lines = max_lines
        self._most_line_bytes = max_line_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ingest: Ingest = scope["state"]["ingest"]
        headers: Headers = dict(scope["headers"])
        try:
            body = await self._reader.read(scope, receive, headers, self._most_bytes)
            lines = self._lines(headers, body)
        except Gone:
            return
        except TicketwireError as exc:
            metrics.REFUSED.labels(exc.code).inc()
            await refused(send, exc)
            return
        results = await self._submit(ingest, lines, trace_of(headers.get(b"traceparent")))
        await answer(send, 200, b"".join(results), content_type=NDJSON)

    def _lines(self, headers: Headers, body: bytes) -> list[bytes]:
        if not body:
            raise Rejected("missing_parameters", MISSING)
        check_encoding(headers)
        kind_of(headers.get(b"content-type"), (Kind.NDJSON,))
        if b"idempotency-key" in headers:
            raise Rejected("invalid", "Idempotency-Key is given for a batch, allowed: client_message_id in each line")
        lines = body.removesuffix(b"\n").split(b"\n")
        if len(lines) > self._most_lines:
            raise Rejected("too_large", f"the batch has {len(lines):,} lines, allowed: {self._most_lines:,}")
        return lines

    async def _submit(self, ingest: Ingest, lines: list[bytes], trace_id: str | None) -> list[bytes]:
        pending: list[asyncio.Future[str] | TicketwireError] = []
        for number, line in enumerate(lines):
            if number % _BREATH == _BREATH - 1:
                await asyncio.sleep(0)
            try:
                pending.append(self._one(ingest, line, trace_id))
            except TicketwireError as exc:
                pending.append(exc)
        waiting = [one for one in pending if isinstance(one, asyncio.Future)]
        await asyncio.gather(*waiting, return_exceptions=True)
        return [_result(one) for one in pending]

    def _one(self, ingest: Ingest, line: bytes, trace_id: str | None) -> asyncio.Future[str]:
        if len(line) > self._most_line_bytes:
            raise Rejected("too_large", f"the line has {len(line):,} bytes, allowed: {self._most_line_bytes:,}")
        return ingest.submit(to_message(read_object(line), None, trace_id))


def _result(one: asyncio.Future[str] | TicketwireError) -> bytes:
    error: BaseException | None = one if isinstance(one, TicketwireError) else one.exception()
    if error is None and isinstance(one, asyncio.Future):
        metrics.ACCEPTED.inc()
        return b'{"status":"success","message_id":"%b"}\n' % one.result().encode()
    if not isinstance(error, TicketwireError):
        assert error is not None
        raise error
    metrics.REFUSED.labels(error.code).inc()
    line = {"error": error.detail, "code": error.code, "status": error.problem.status}
    return to_json(line) + b"\n"
