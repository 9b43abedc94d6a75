"""From bytes to a message: form, multipart form or JSON. Pure.

Everything here raises Rejected with a code of `schemas.problems` and one sentence, and nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from email.errors import MessageDefect
from email.message import Message
from email.parser import BytesParser
from enum import Enum
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

from pydantic import ValidationError

from schemas.entries import explain
from schemas.events import KEY_PATTERN, KEY_RULE, Submitted
from ticketwire.errors import Rejected

MISSING = "Missing parameters"  # the tutorial's own words
REQUIRED = ("ticket_id", "sender_id", "message")
KNOWN = (*REQUIRED, "client_message_id")
MOST_FIELDS = 50  # of a form; more is an attack on the parser, not a message
_NUMBERS = ("ticket_id", "sender_id")  # JSON clients may send these as integers

# W3C Trace Context, section 3.2.2: version ff and an all-zero trace id are invalid.
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
# RFC 8941, section 3.3.3: a structured-field string.
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_KEY = re.compile(KEY_PATTERN)


class Kind(Enum):
    """How a body is written."""

    FORM = "application/x-www-form-urlencoded"
    MULTIPART = "multipart/form-data"
    JSON = "application/json"
    NDJSON = "application/x-ndjson"


_KINDS = {kind.value.encode(): kind for kind in Kind}
_NDJSON_ALIASES = (b"application/ndjson", b"application/jsonl", b"application/x-jsonlines")
_KINDS |= dict.fromkeys(_NDJSON_ALIASES, Kind.NDJSON)


def kind_of(content_type: bytes | None, allowed: Iterable[Kind]) -> Kind:
    """Read a Content-Type. Its charset, where stated, must be UTF-8."""
    kind = _KINDS.get(content_type) if content_type is not None else None
    if kind is None and content_type is not None:
        media_type, _, parameters = content_type.partition(b";")
        kind = _KINDS.get(media_type.strip().lower())
        charset = re.search(rb"charset\s*=\s*[\"']?([^\"';\s]*)", parameters, re.IGNORECASE)
        if kind is not None and charset is not None and charset[1].lower() not in (b"utf-8", b"utf8", b"us-ascii"):
            _refuse("unsupported_media_type", f"charset is {_shown(charset[1])}, allowed: utf-8")
    if kind is None or kind not in allowed:
        found = "there is no Content-Type" if content_type is None else f"Content-Type is {_shown(content_type)}"
        _refuse("unsupported_media_type", f"{found}, allowed: {', '.join(kind.value for kind in allowed)}")
    return kind


def read_fields(kind: Kind, content_type: bytes, body: bytes) -> Mapping[str, Any]:
    """Return the named values of a body: texts from a form, anything from JSON. Unknown names are kept."""
    if kind is Kind.FORM:
        return _unix_newlines(_read_form(body))
    if kind is Kind.MULTIPART:
        return _unix_newlines(_read_multipart(content_type, body))
    return read_object(body)


def read_object(body: bytes) -> Mapping[str, Any]:
    """Read a JSON object (RFC 8259)."""
    try:
        value = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as exc:
        _refuse("bad_request", f"the JSON is not valid UTF-8 at byte {exc.start}")
    except json.JSONDecodeError as exc:
        _refuse("bad_request", f"the JSON cannot be read at line {exc.lineno}, column {exc.colno}: {exc.msg}")
    except (ValueError, RecursionError):  # a number of thousands of digits; nesting thousands deep
        _refuse("bad_request", "the JSON cannot be read: a number is too long or the nesting too deep")
    if not isinstance(value, dict):
        _refuse("invalid", f"the JSON is of type {_json_type(value)}, allowed: an object")
    return value


def to_message(fields: Mapping[str, Any], header_key: str | None, trace_id: str | None) -> Submitted:
    """Check the values of one message. *header_key* is the Idempotency-Key; names nobody knows are ignored."""
    found: dict[str, Any] = {}
    for name in KNOWN:
        value = fields.get(name)
        if type(value) is int and name in _NUMBERS:
            value = str(value)
        if value is None or (isinstance(value, str) and not value.strip()):
            if name in REQUIRED:
                raise Rejected("missing_parameters", MISSING)
            continue
        found[name] = value
    if header_key is not None:
        own = found.setdefault("client_message_id", header_key)
        if own != header_key:
            _refuse("invalid", "Idempotency-Key and client_message_id differ, allowed: one of them, or both the same")
    if trace_id is not None:
        found["trace_id"] = trace_id
    try:
        return Submitted.model_validate(found)
    except ValidationError as exc:
        raise Rejected("invalid", explain(exc)) from None  # the cause would show the body


def idempotency_key(values: list[bytes]) -> str | None:
    """Read the Idempotency-Key headers: bare, or quoted as draft-ietf-httpapi-idempotency-key-header has it."""
    if not values:
        return None
    if len(values) > 1:
        _refuse("invalid", f"Idempotency-Key is given {len(values)} times, allowed: once")
    text = values[0].decode("latin-1").strip()
    if quoted := _QUOTED.fullmatch(text):
        text = re.sub(r"\\(.)", r"\1", quoted[1])
    if not _KEY.fullmatch(text):
        _refuse("invalid", f"Idempotency-Key has {len(text):,} characters, allowed: {KEY_RULE}")
    return text


def trace_of(traceparent: bytes | None) -> str | None:
    """Return the trace id of a W3C traceparent header; an invalid one counts as none, as that standard says."""
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent is not None else None
    return match[1].decode() if match else None


def _read_form(body: bytes) -> dict[str, str]:
    """Read application/x-www-form-urlencoded as bytes (WHATWG URL standard, 5.1), twice as fast as parse_qsl."""
    if (fields := body.count(b"&") + 1) > MOST_FIELDS:
        _refuse("invalid", f"the form has {fields:,} fields, allowed: {MOST_FIELDS}")
    pairs: dict[str, str] = {}
    try:
        for pair in body.replace(b"+", b" ").split(b"&"):
            name, _, value = pair.partition(b"=")
            key = (unquote_to_bytes(name) if b"%" in name else name).decode()
            if key in pairs and key in KNOWN:
                _refuse("invalid", f"{key} is given twice, allowed: once")
            pairs[key] = (unquote_to_bytes(value) if b"%" in value else value).decode()
    except UnicodeDecodeError:
        _refuse("invalid", "the form is not valid UTF-8")
    return pairs


def _read_multipart(content_type: bytes, body: bytes) -> dict[str, str]:
    """Read multipart/form-data (RFC 7578). Off the hot path: the standard library's MIME parser does it."""
    try:
        form = BytesParser().parsebytes(b"Content-Type: " + content_type + b"\r\n\r\n" + body)
        defects = form.defects + [defect for part in form.walk() for defect in part.defects]
    except (RecursionError, ValueError, LookupError):
        _refuse("bad_request", "the multipart form cannot be read")
    parts = form.get_payload()
    if defects or not form.is_multipart() or not isinstance(parts, list):
        why = type(defects[0]).__name__ if defects and isinstance(defects[0], MessageDefect) else "no parts"
        _refuse("bad_request", f"the multipart form cannot be read: {why}")
    if len(parts) > MOST_FIELDS:
        _refuse("invalid", f"the form has {len(parts):,} fields, allowed: {MOST_FIELDS}")
    pairs = [
        (name, text)
        for part in parts
        if isinstance(part, Message) and (name := _name_of(part)) in KNOWN and (text := _text_of(name, part))
    ]
    _check_unique([name for name, _ in pairs])
    return dict(pairs)


def _name_of(part: Message) -> str:
    name = part.get_param("name", header="content-disposition")
    return name if isinstance(name, str) else ""


def _text_of(name: str, part: Message) -> str:
    if part.get_filename() is not None:
        _refuse("invalid", f"{name} is a file, allowed: a text")
    try:
        content = part.get_payload(decode=True)
        if not isinstance(content, bytes):
            _refuse("invalid", f"{name} is a multipart of its own, allowed: a text")
        return content.decode()
    except UnicodeDecodeError:
        _refuse("invalid", f"{name} is not valid UTF-8")


def _unix_newlines(fields: dict[str, str]) -> dict[str, str]:
    """HTML forms submit a line break as CR LF (HTML standard, 4.10.22.4), a message has LF."""
    text = fields.get("message")
    if text is not None and "\r" in text:
        fields["message"] = text.replace("\r\n", "\n")
    return fields


def _check_unique(names: list[str]) -> None:
    """A known name given twice is refused: two readers might take different ones."""
    for name in KNOWN:
        if (count := names.count(name)) > 1:
            _refuse("invalid", f"{name} is given {count} times, allowed: once")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        _check_unique([name for name, _ in pairs])
    return fields


def _no_constant(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"{name} is no JSON value", "", 0)


def _json_type(value: object) -> str:
    return {list: "array", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")


def _shown(value: bytes) -> str:
    return repr(value[:80].decode("latin-1"))


def _refuse(code: str, detail: str) -> NoReturn:
    raise Rejected(code, detail) from None
