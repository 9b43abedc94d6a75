"""Regular expressions of a policy: linear time, and small enough to stay quick. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import re2

from workers.moderation.linear import Linear

MAX_PATTERN_CHARACTERS = 2_000
# Instructions of the compiled program. When its automaton does not fit into memory, re2 steps through
# all of them for each character: 8,000 characters times this many is about a millisecond's work.
MAX_PROGRAM = 1_500
_MAX_MEMORY = 4 << 20
# Matches that are masked one by one, and the rest of the text as one. Each search may read to the end of the text, for
# the sake of an alternative that began and never ends.
MAX_MATCHES = 100


class UnsafePattern(ValueError):
    """An expression that is not accepted; the message says why and what is."""


def compile_safe(pattern: str, ignore_case: bool = True) -> Linear:
    """Compile *pattern* with re2, or raise `UnsafePattern`."""
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        raise UnsafePattern(f"expression has {len(pattern)} characters, {MAX_PATTERN_CHARACTERS} allowed")
    try:
        compiled = Linear(f"(?i){pattern}" if ignore_case else pattern, _MAX_MEMORY)
    except re2.error as exc:
        detail = exc.args[0].decode(errors="replace") if isinstance(exc.args[0], bytes) else str(exc)
        raise UnsafePattern(
            f"expression is not accepted by re2 ({detail});"
            " back-references, look-around and large repeats are not allowed"
        ) from exc
    if compiled.steps > MAX_PROGRAM:
        raise UnsafePattern(f"expression compiles to {compiled.steps} steps, {MAX_PROGRAM} allowed")
    if compiled.first(b"") >= 0:
        raise UnsafePattern("expression matches the empty text, so that every message would be a hit")
    return compiled


class PatternSet:
    """The expressions of one rule, each with what is shown for its matches."""

    def __init__(self, patterns: Sequence[str], ignore_case: bool = True) -> None:
        self._patterns = [compile_safe(pattern, ignore_case) for pattern in patterns]
        self._sources = patterns
        self._ignore_case = ignore_case

    @cached_property
    def anywhere(self) -> Linear | None:
        """All expressions as one, to search many messages as the lines of one text.

        Finds every message that has a match, and perhaps more. None if that cannot be told: for
        expressions about the ends of a text that lines do not have, or when re2 finds it too large.
        """
        if any(mark in source for source in self._sources for mark in (r"\A", r"\z", "(?-")):
            return None
        joined = "|".join(f"(?:{source})" for source in self._sources)
        try:
            return Linear(f"(?im){joined}" if self._ignore_case else f"(?m){joined}")
        except re2.error:
            return None

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where an expression matches in one message."""
        for pattern in self._patterns:
            for count, (start, end) in enumerate(pattern.places(text)):
                if end > start:
                    yield start, end
                if count >= MAX_MATCHES:
                    yield start, len(text)
                    break
