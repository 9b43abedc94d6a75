"""What a policy file may say: rules in order, each with its kind, action and scope. Pure.

`policy_files` reads the file; `rules` makes of it what searches messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

import phonenumbers
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from workers.moderation.account_numbers import NATIONAL_IDS
from workers.moderation.language import LANGUAGES
from workers.moderation.links import FLAGS
from workers.moderation.patterns import compile_safe
from workers.moderation.personal_data import Category
from workers.moderation.verdict import Action
from workers.moderation.wordlist import Term

MAX_RULES = 200
MAX_PATTERNS = 50

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
Share = Annotated[float, Field(gt=0, le=1)]


class PolicyError(ValueError):
    """A policy that cannot be used: where it says what, and what it may say."""

    def __init__(self, file: str, line: int, column: int, reason: str) -> None:
        super().__init__(f"{file}:{line}:{column}: {reason}")
        self.file = file
        self.line = line
        self.column = column
        self.reason = reason


class Severity(StrEnum):
    """How bad a hit is, for those who review it; it does not change the verdict."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_enum_values=False)


class Scope(_Strict):
    """Which messages a rule looks at. An empty list means all."""

    roles: frozenset[str] = Field(default=frozenset(), description="of the sender; empty: any, also none")
    except_roles: frozenset[str] = Field(default=frozenset(), description="of senders that are left alone")
    ticket_prefixes: tuple[str, ...] = Field(default=(), description="beginnings of ticket ids")
    languages: frozenset[str] = Field(
        default=frozenset(), description="the rule is silent in texts that are clearly in another language"
    )

    @field_validator("languages")
    @classmethod
    def _known(cls, languages: frozenset[str]) -> frozenset[str]:
        unknown = languages - LANGUAGES
        if unknown:
            raise ValueError(f"found language {min(unknown)!r}, allowed are {', '.join(sorted(LANGUAGES))}")
        return languages


class _Rule(_Strict):
    id: Name
    version: int = Field(default=1, ge=1, description="raise it with every change: verdicts are stored with it")
    action: Action
    severity: Severity = Severity.MEDIUM
    scope: Scope = Scope()
    description: str = ""


class TermsRule(_Rule):
    """Words and phrases, found through their disguises."""

    kind: Literal["terms"]
    lists: tuple[str, ...] = Field(
        default=(), description="files beside the policy, or `builtin:` and a file that is shipped"
    )
    terms: tuple[str, ...] = Field(default=(), description="as a line of a list: `word`, `begin*`, `*any*`")
    allow_lists: tuple[str, ...] = ()
    allow: tuple[str, ...] = Field(default=(), description="innocent words that contain or resemble a term")
    shown: str = Field(default="[removed]", max_length=40)

    @model_validator(mode="after")
    def _not_empty(self) -> TermsRule:
        if not self.lists and not self.terms:
            raise ValueError("found neither lists nor terms, one of them is needed")
        return self


class PatternsRule(_Rule):
    """Regular expressions in the syntax of re2."""

    kind: Literal["patterns"]
    patterns: tuple[str, ...] = Field(min_length=1, max_length=MAX_PATTERNS)
    ignore_case: bool = True
    normalised: bool = Field(default=False, description="search the folded text instead of the original")
    shown: str = Field(default="[removed]", max_length=40)

    @field_validator("patterns")
    @classmethod
    def _safe(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for number, pattern in enumerate(patterns, 1):
            try:
                compile_safe(pattern)
            except ValueError as exc:
                raise ValueError(f"pattern {number}: {exc}") from exc
        return patterns


class LinksRule(_Rule):
    """Links by the domain that somebody registered."""

    kind: Literal["links"]
    flag: frozenset[Literal[FLAGS]] = Field(description="what makes a link a hit")  # type: ignore[valid-type]
    allow: frozenset[str] = Field(default=frozenset(), description="registrable domains that are never a hit")
    deny: frozenset[str] = frozenset()
    deny_lists: tuple[str, ...] = Field(default=(), description="files with one domain a line")
    shorteners: frozenset[str] = frozenset()
    suspicious_endings: frozenset[str] = Field(default=frozenset(), description="top-level domains")
    brands: frozenset[str] = Field(default=frozenset(), description="domains that others imitate")
    max_links: int = Field(default=0, ge=0, description="in one message; 0: any number up to 50")
    shown: str = Field(default="[link]", max_length=40)


class PersonalDataRule(_Rule):
    """Cards, IBANs, national ids, e-mail addresses, phone numbers, keys and passwords."""

    kind: Literal["personal_data"]
    categories: frozenset[Category] = Field(default=frozenset(Category), min_length=1)
    phone_regions: tuple[str, ...] = Field(default=(), description="ISO 3166 codes; `+` numbers always count")
    national_ids: frozenset[Literal[NATIONAL_IDS]] = frozenset(NATIONAL_IDS)  # type: ignore[valid-type]
    show_last: int = Field(default=0, ge=0, le=4, description="characters of a card, IBAN or phone left visible")

    @field_validator("phone_regions")
    @classmethod
    def _supported(cls, regions: tuple[str, ...]) -> tuple[str, ...]:
        for region in regions:
            if region not in phonenumbers.SUPPORTED_REGIONS:
                raise ValueError(f"found region {region!r}, a two-letter code such as US or DE is allowed")
        return regions


class FloodRule(_Rule):
    """Too many messages, or too many alike, of one sender in one ticket."""

    kind: Literal["flood"]
    messages: int = Field(default=20, ge=1, le=60)
    seconds: float = Field(default=10, gt=0, le=3_600)
    duplicates: int = Field(default=3, ge=0, le=60, description="alike that are let through; 0: any number")
    duplicate_seconds: float = Field(default=60, gt=0, le=3_600)
    duplicate_min_characters: int = Field(default=20, ge=1)


class LengthRule(_Rule):
    """Messages longer than this."""

    kind: Literal["length"]
    max_characters: int = Field(ge=1)


class CapitalsRule(_Rule):
    """Messages in capitals."""

    kind: Literal["capitals"]
    share: Share = 0.8
    min_letters: int = Field(default=30, ge=1)


class EmojiRule(_Rule):
    """Messages made of emoji."""

    kind: Literal["emoji"]
    share: Share = 0.8
    min_emoji: int = Field(default=15, ge=1)


class Failure(StrEnum):
    """What becomes of a message when the external moderator gives no answer in time."""

    OPEN = "open"  # it passes
    CLOSED = "closed"  # it is rejected
    HOLD = "hold"  # a person decides
    WAIT = "wait"  # the worker tries the batch again later; the partition waits


class Threshold(_Strict):
    """From which score on which action is taken, 0 to 1."""

    mask: Share | None = None  # the whole text: a score has no place in it
    hold: Share | None = None
    reject: Share | None = None

    def action(self, score: float) -> Action:
        """Return the strictest action whose threshold *score* reaches."""
        for action in (Action.REJECT, Action.HOLD, Action.MASK):
            limit: float | None = getattr(self, action.value)
            if limit is not None and score >= limit:
                return action
        return Action.ALLOW


class ExternalRule(_Strict):
    """A moderator that is asked by HTTP; see docs/moderation.md for what is sent and answered."""

    kind: Literal["external"]
    id: Name
    version: int = Field(default=1, ge=1)
    severity: Severity = Severity.MEDIUM
    scope: Scope = Scope()
    description: str = ""
    url: str = Field(pattern=r"^https?://")
    attributes: dict[str, Threshold] = Field(min_length=1)
    on_failure: Failure = Failure.HOLD
    deadline_ms: int = Field(default=1_000, ge=10, le=30_000, description="for a message, all tries together")
    attempts: int = Field(default=2, ge=1, le=5)
    concurrency: int = Field(default=16, ge=1, le=256)
    cache_entries: int = Field(default=4_096, ge=0, le=100_000)
    breaker_failures: int = Field(default=5, ge=1, description="in a row until it is left alone")
    breaker_seconds: float = Field(default=10, gt=0, description="for which it is left alone")
    min_characters: int = Field(default=1, ge=1, description="shorter texts are not sent")


Rule = Annotated[
    TermsRule
    | PatternsRule
    | LinksRule
    | PersonalDataRule
    | FloodRule
    | LengthRule
    | CapitalsRule
    | EmojiRule
    | ExternalRule,
    Field(discriminator="kind"),
]


class PolicyDocument(_Strict):
    """A policy file."""

    format: Literal[1] = Field(default=1, description="of this file; not the version of a rule")
    description: str = ""
    rules: tuple[Rule, ...] = Field(max_length=MAX_RULES)

    @model_validator(mode="after")
    def _unique(self) -> PolicyDocument:
        seen: set[str] = set()
        for rule in self.rules:
            if rule.id in seen:
                raise ValueError(f"found two rules with the id {rule.id!r}, ids must differ")
            seen.add(rule.id)
        if sum(isinstance(rule, ExternalRule) for rule in self.rules) > 1:
            raise ValueError("found more than one rule of kind external, one is allowed")
        return self


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy file with the lists it names: all that verdicts depend on."""

    document: PolicyDocument
    lists: dict[str, tuple[Term, ...]]  # by the name under which the document has them
    domains: dict[str, frozenset[str]]
    digest: str  # SHA-256 of file and lists, in hexadecimal: two policies with one digest decide alike


def policy_schema() -> dict[str, Any]:
    """Return the JSON Schema of a policy file, for editors."""
    schema = PolicyDocument.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Ticketwire moderation policy"
    return schema
