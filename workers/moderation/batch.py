"""The messages of one batch in the forms that rules search. Pure.

A call into a search library costs as much as searching a few hundred characters, so rules search the
joined text of a batch first and look at single messages only where that found something.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import accumulate

import re2

from workers.moderation.findings import Span
from workers.moderation.normalise import Origin, are_plain, fold
from workers.moderation.skeleton import leet_joined, plain_joined
from workers.moderation.verdict import Candidate

# No folded text holds U+0001, and no pattern does, so nothing is found across two messages.
SEPARATOR = " \x01 "
# For the expressions of a policy, which may look at the beginning and end of a line.
LINES = "\n\x01\n"


_SURROGATE = re.compile("[\ud800-\udfff]")


class Joined:
    """Some messages of a batch as one text."""

    def __init__(self, messages: Sequence[int], texts: Sequence[str], separator: str = SEPARATOR) -> None:
        self.messages = messages
        self._texts = texts
        self.text = f"{separator[-1]}{separator.join(texts)}{separator[0]}"

    @cached_property
    def plain(self) -> str:
        return plain_joined(self.text)

    @cached_property
    def leet(self) -> str:
        return leet_joined(self.text)

    def messages_with(self, pattern: re2._Regexp) -> list[int]:
        """Return the messages in which *pattern* matches; it looks for one match in each, not for all."""
        encoded, starts = self._encoded
        found: list[int] = []
        match = pattern.search(encoded)
        while match is not None:
            # A match may begin with the space before its message.
            place = bisect_right(starts, match.start() + 1) - 1
            found.append(self.messages[place])
            if place + 1 >= len(self.messages):
                break
            match = pattern.search(encoded, starts[place + 1] - 1)
        return found

    @cached_property
    def _encoded(self) -> tuple[bytes, list[int]]:
        """The text as re2 wants it, which would encode it for each search, and where messages start in it."""
        encoded = self.text.encode()
        ascii_only = len(encoded) == len(self.text)
        sizes = [len(text) if ascii_only else len(text.encode()) for text in self._texts]
        return encoded, list(accumulate((size + len(SEPARATOR) for size in sizes), initial=1))

    def messages_of_view(self, view: str, positions: Iterable[int]) -> set[int]:
        """Return the messages in which *positions* of `plain` or `leet` lie."""
        ends: list[int] = []
        at = view.find("\x01")
        while at >= 0:
            ends.append(at)
            at = view.find("\x01", at + 1)
        return {self.messages[bisect_right(ends, position)] for position in positions}


class Batch:
    """Candidates with their folded texts, and where a folded character came from."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = candidates
        self.texts = [candidate.text for candidate in candidates]
        self._plain = are_plain(self.texts)
        self.folded = self.texts if self._plain else [fold(text) for text in self.texts]
        self._origins: dict[int, Origin] = {}

    @cached_property
    def joined(self) -> list[Joined]:
        """The folded texts; those that are ASCII apart, since those are several times faster."""
        if self._plain:
            return [Joined(range(len(self.texts)), self.texts)] if self.texts else []
        groups: tuple[list[int], list[int]] = ([], [])
        for message, text in enumerate(self.folded):
            groups[not text.isascii()].append(message)
        return [Joined(group, [self.folded[message] for message in group]) for group in groups if group]

    @cached_property
    def folded_lines(self) -> Joined:
        return Joined(range(len(self.texts)), self.folded, LINES)

    @cached_property
    def original_lines(self) -> Joined:
        """The texts as they were typed, for expressions that are to see accents and signs."""
        everyone = range(len(self.texts))
        return Joined(everyone, [self.searchable(message) for message in everyone], LINES)

    def searchable(self, message: int) -> str:
        """Return the original text in a form that has UTF-8, of the same length."""
        text = self.texts[message]
        if not text.isascii() and _SURROGATE.search(text):
            return _SURROGATE.sub("\ufffd", text)
        return text

    def original_span(self, message: int, start: int, end: int, shown: str) -> Span:
        """Return the span of characters that were found in the original itself."""
        return Span(start, end, shown)

    def span(self, message: int, start: int, end: int, shown: str) -> Span:
        """Return the original span of folded characters of *message*."""
        origin = self._origins.get(message)
        if origin is None:
            origin = self._origins[message] = Origin(self.texts[message])
        return Span(*origin.span(start, end), shown)
