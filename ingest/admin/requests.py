"""From queries and bodies to what the admin calls take. Pure.

Everything here raises Rejected, naming the field, what was found and what is allowed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, NoReturn, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from schemas.events import BODY_RULE, ID_RULE, Body, Id
from ticketwire.bus.dead_letters import UNREADABLE, Letter
from ticketwire.errors import Rejected

# Codes of `schemas.problems` under which workers bury, and what nobody of ours wrote.
REASONS = (
    "undecodable", "unknown_version", "archive_refused", "duplicate", "log_refused", "poison", UNREADABLE,
)  # fmt: skip
MOST_IDS = 1_000
MOST_LISTED = 1_000
MOST_RATE = 10_000.0
MOST_MUTED_S = 10 * 365 * 86_400
_LARGEST = 2**63 - 1

_TIME_RULE = "Unix milliseconds or ISO 8601 with an offset, such as 2026-01-31T12:00:00Z"
_WHY_RULE = "1 to 500 characters, no control characters"
ACTOR_RULE = "1 to 64 of A-Z a-z 0-9 . _ @ -"
_ACTOR = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_RULES = {
    "ids": f"a list of 1 to {MOST_IDS:,} dead letters' ids, such as 07:1616690567456-0; or `filter`, not both",
    "filter": "an object with any of reason, ticket, since, until; or `ids`, not both",
    "reason": ", ".join(REASONS),
    "ticket": ID_RULE,
    "since": _TIME_RULE,
    "until": _TIME_RULE,
    "limit": f"a whole number from 1 to {MOST_LISTED:,}",
    "cursor": "what the page before gave as next_cursor",
    "dry_run": "true or false",
    "rate": f"letters per second, above 0 and up to {MOST_RATE:,.0f}",
    "why": _WHY_RULE,
    "expected": "the number of letters that the filter matches, a whole number from 0",
    "replacement": BODY_RULE,
    "seconds": f"whole seconds from 1 to {MOST_MUTED_S:,}",
    "before": "the number of a row of the record",
    "actor": ACTOR_RULE,
    "action": "1 to 64 of a-z _ -",
    "subject": "1 to 300 characters",
}


def _to_ms(value: object) -> object:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    if isinstance(value, str):
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError("no offset")
        return round(moment.timestamp() * 1000)
    return value


def _known_reason(value: str) -> str:
    if value not in REASONS:
        raise ValueError("unknown")
    return value


def _sentence(value: str) -> str:
    if not value.strip() or _CONTROL.search(value):
        raise ValueError("blank, or with control characters")
    return value


def _to_int(value: object) -> object:
    """Numbers of a query are texts."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20 else value


Time = Annotated[int, BeforeValidator(_to_ms), Field(strict=True, ge=0, le=_LARGEST)]
Reason = Annotated[str, AfterValidator(_known_reason)]
Why = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(_sentence)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LetterFilter(Strict):
    """Which dead letters: those to which every given field applies. All, if none is given."""

    reason: Reason | None = None
    ticket: Id | None = None
    since: Time | None = Field(default=None, description="buried at or after")
    until: Time | None = Field(default=None, description="buried before")

    def matches(self, letter: Letter) -> bool:
        return (
            (self.reason is None or letter.reason == self.reason)
            and (self.ticket is None or letter.ticket == self.ticket)
            and (self.since is None or letter.last_at_ms >= self.since)
            and (self.until is None or letter.last_at_ms < self.until)
        )

    def given(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


class ListRequest(LetterFilter):
    limit: Annotated[int, BeforeValidator(_to_int), Field(strict=True, ge=1, le=MOST_LISTED)] = 50
    cursor: str = ""


class ReplayRequest(Strict):
    ids: Annotated[list[str], Field(min_length=1, max_length=MOST_IDS)] | None = None
    filter: LetterFilter | None = None
    dry_run: Annotated[bool, Field(strict=True)] = False
    rate: Annotated[float, Field(gt=0, le=MOST_RATE, allow_inf_nan=False)] | None = None
    why: Why | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.ids is None) == (self.filter is None):
            found = "neither ids nor filter is" if self.ids is None else "both ids and filter are"
            raise Rejected("invalid", f"{found} given, allowed: exactly one of them")
        if self.why is None and not self.dry_run:
            raise Rejected("invalid", f"why is missing: {_WHY_RULE}")
        return self


class PurgeRequest(Strict):
    filter: LetterFilter
    expected: Annotated[int, Field(strict=True, ge=0)]
    why: Why


class HeldRequest(Strict):
    limit: Annotated[int, BeforeValidator(_to_int), Field(strict=True, ge=1, le=MOST_LISTED)] = 50
    cursor: str = ""


class WhyRequest(Strict):
    """The body of a decision about one thing that the path names."""

    why: Why


class DeleteRequest(Strict):
    """*replacement*: the text that readers see instead; without one the message is gone."""

    why: Why
    replacement: Body | None = None


class MuteRequest(Strict):
    seconds: Annotated[int, Field(strict=True, ge=1, le=MOST_MUTED_S)]
    why: Why


class AuditRequest(Strict):
    before: Annotated[int, BeforeValidator(_to_int), Field(strict=True, ge=1, le=_LARGEST)] | None = None
    limit: Annotated[int, BeforeValidator(_to_int), Field(strict=True, ge=1, le=MOST_LISTED)] = 50
    actor: Annotated[str, StringConstraints(min_length=1, max_length=300)] | None = None
    action: Annotated[str, StringConstraints(pattern=r"^[a-z_-]{1,64}$")] | None = None
    subject: Annotated[str, StringConstraints(min_length=1, max_length=300)] | None = None


M = TypeVar("M", bound=BaseModel)


def from_query(kind: type[M], pairs: Sequence[tuple[str, str]]) -> M:
    """Read the parameters of a GET. An empty value counts as not given."""
    given: dict[str, str] = {}
    for name, value in pairs:
        if name in given:
            raise Rejected("invalid", f"{name[:60]!r} is given twice, allowed: once")
        given[name] = value
    return _validated(kind, {name: value for name, value in given.items() if value or name not in kind.model_fields})


def from_json(kind: type[M], body: bytes) -> M:
    """Read the JSON body of a POST."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):  # UnicodeDecodeError is one
        raise Rejected("bad_request", "the body cannot be read, allowed: a JSON object in UTF-8") from None
    if not isinstance(value, dict):
        raise Rejected("invalid", f"the body is of type {type(value).__name__}, allowed: a JSON object")
    return _validated(kind, value)


def actor_of(values: Sequence[str]) -> str | None:
    """Read the `X-Actor` headers: who is behind the key."""
    if not values:
        return None
    if len(values) > 1 or not _ACTOR.fullmatch(values[0]):
        found = repr(values[0][:80]) if len(values) == 1 else f"given {len(values)} times"
        raise Rejected("invalid", f"X-Actor is {found}, allowed: {ACTOR_RULE}")
    return values[0]


def _validated(kind: type[M], value: Mapping[str, Any]) -> M:
    try:
        return kind.model_validate(value)
    except ValidationError as exc:
        _explain(kind, exc)


def _explain(kind: type[BaseModel], exc: ValidationError) -> NoReturn:
    error = exc.errors(include_url=False, include_context=False)[0]
    names = [str(part) for part in error["loc"] if isinstance(part, str)]
    path, last = ".".join(names)[:80], names[-1] if names else ""
    if error["type"] == "extra_forbidden":
        fields = LetterFilter.model_fields if len(names) > 1 else kind.model_fields
        raise Rejected("invalid", f"field {path!r} is not known; allowed are {', '.join(fields)}") from None
    rule = _RULES.get(last, "")
    if error["type"] == "missing":
        raise Rejected("invalid", f"{path} is missing: {rule}") from None
    raise Rejected("invalid", f"{path} is {_shown(error['input'])}, allowed: {rule}") from None


def _shown(value: object) -> str:
    if isinstance(value, list):
        return f"a list of {len(value):,}"
    if isinstance(value, dict):
        return "an object"
    text = repr(value)
    return text if len(text) <= 80 else f"{type(value).__name__} of {len(text):,} characters"
