"""What a verification found. Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

MOST_TOLD = 100  # violations of one check that are told one by one


@dataclass(slots=True)
class Check:
    """One promise, and what speaks against it."""

    name: str
    promise: str
    looked_at: int = 0
    violations: list[str] = field(default_factory=list)  # one sentence each
    note: str = ""  # what could not be judged, and why

    @property
    def verdict(self) -> str:
        if self.violations:
            return "BROKEN"
        return "not judged" if self.note and not self.looked_at else "kept"

    def to_json(self) -> dict[str, Any]:
        return {
            "check": self.name,
            "promise": self.promise,
            "verdict": self.verdict,
            "looked_at": self.looked_at,
            "violations": len(self.violations),
            "told": self.violations[:MOST_TOLD],
            "note": self.note or None,
        }


@dataclass(frozen=True, slots=True)
class Suspect:
    """Something that looks wrong and may be in flight: `still` looks again and says what is wrong, or None."""

    check: Check
    still: Callable[[], Awaitable[str | None]]


@dataclass(slots=True)
class Report:
    """The outcome of one verification."""

    checks: list[Check]
    seconds: float = 0.0

    @property
    def whole(self) -> bool:
        return not any(check.violations for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        return {
            "whole": self.whole,
            "seconds": round(self.seconds, 3),
            "checks": [check.to_json() for check in self.checks],
        }
