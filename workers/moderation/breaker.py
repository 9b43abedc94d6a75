"""Leave alone what fails all the time. Pure: the time is handed in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class CircuitBreaker:
    """Opens after *failures* in a row; after *seconds* lets one try through, and closes when it succeeds."""

    failures: int
    seconds: float
    _in_a_row: int = 0
    _opened_at: float | None = None
    _trying: bool = False

    @property
    def open(self) -> bool:
        """Whether requests are refused for now, but for a single try."""
        return self._opened_at is not None

    def allows(self, now: float) -> bool:
        """Say whether a request may be made at *now* (seconds); one that may must be reported on."""
        if self._opened_at is None:
            return True
        if self._trying or now - self._opened_at < self.seconds:
            return False
        self._trying = True
        return True

    def succeeded(self) -> None:
        """Report an answer."""
        self._in_a_row, self._opened_at, self._trying = 0, None, False

    def failed(self, now: float) -> None:
        """Report that no usable answer came."""
        self._in_a_row += 1
        if self._trying or self._in_a_row >= self.failures:
            self._opened_at = now
        self._trying = False

    def abandoned(self) -> None:
        """Report that a request was given up for a reason that is not the other side's."""
        self._trying = False
