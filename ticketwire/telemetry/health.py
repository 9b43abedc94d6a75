"""Whether a tier is ready, as the sum of named checks. No I/O.

Whoever owns a dependency reports on it: `health.set("redis", False, "connection refused")`. Nobody asks anybody
while answering `/readyz`, so a slow dependency cannot make the answer slow.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Check:
    """What was last reported under one name."""

    ok: bool
    reason: str
    since: float  # monotonic seconds of the last change of *ok*


class Health:
    """A tier is ready when each of its checks is well, at least one has reported, and it is not draining.

    Name every check at once when starting (`expect`), so that a tier is not ready by half.
    """

    def __init__(self, *expected: str, now: Callable[[], float] = time.monotonic) -> None:
        self.draining = False
        self._now = now
        self._checks: dict[str, Check] = {}
        self.expect(*expected)

    def expect(self, *names: str) -> None:
        """Count these checks as failed until they report."""
        for name in names:
            self._checks.setdefault(name, Check(False, "has not reported yet", self._now()))

    def set(self, name: str, ok: bool, reason: str = "") -> None:
        """Report. *reason* says in a few words what is wrong. Only a change is logged."""
        before, now = self._checks.get(name), self._now()
        changed = before is None or before.ok != ok
        self._checks[name] = Check(ok, "" if ok else reason, now if changed or before is None else before.since)
        if not changed:
            return
        if not ok:
            log.warning("check failed", extra={"check": name, "reason": reason})
        elif before is not None:
            log.info("check is well", extra={"check": name, "failed_seconds": round(now - before.since, 3)})

    def forget(self, name: str) -> None:
        """Remove a check whose subject is gone, such as a partition that was released."""
        self._checks.pop(name, None)

    @property
    def ready(self) -> bool:
        return not self.draining and bool(self._checks) and all(check.ok for check in self._checks.values())

    def report(self) -> dict[str, Any]:
        """What `/readyz` answers."""
        return {
            "ready": self.ready,
            "draining": self.draining,
            "checks": [
                {"name": name, "ok": check.ok, "reason": check.reason} for name, check in sorted(self._checks.items())
            ],
        }
