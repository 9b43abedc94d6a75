"""The messages of one batch in the forms that rules search. Pure.

A call into a search library costs as much as searching a few hundred characters, so rules search the
joined text of a batch first and look at single messages only where that found something.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

from workers.moderation.findings import Span
from workers.moderation.linear import Linear
from workers.moderation.normalise import Origin, fold_all
from workers.moderation.skeleton import LEET_TABLE, NO_LEET_LETTERS, NO_PLAIN_LETTERS, PLAIN_TABLE, calm
from workers.moderation.verdict import Candidate

# No folded text holds U+0001, and no pattern does, so nothing is found across two messages. Each is a line, since the
# expressions of a policy may look at the beginning and end of one.
SEPARATOR = "\n\x01\n"

_DIVIDER = b"\x01"
_SURROGATE = re.compile("[\ud800-\udfff]")


class Reading(NamedTuple):
    """A joined text by one reading of its digits and signs: as skeleton words, and their letters alone."""

    words: bytes
    letters: bytes


class Joined:
    """Some messages of a batch as one text."""

    def __init__(self, messages: Sequence[int], texts: Sequence[str]) -> None:
        self.messages = messages
        self._texts = texts
        self.text = f"\n{SEPARATOR.join(texts)}\n"

    @cached_property
    def readings(self) -> list[Reading]:
        """The text as plain and as leet."""
        plain, leet = self.encoded, calm(self.encoded)
        return [
            Reading(plain.translate(PLAIN_TABLE, b"'"), plain.translate(PLAIN_TABLE, NO_PLAIN_LETTERS)),
            Reading(leet.translate(LEET_TABLE, b"'"), leet.translate(LEET_TABLE, NO_LEET_LETTERS)),
        ]

    def messages_with(self, pattern: Linear) -> Sequence[int]:
        """Return the messages in which *pattern* matches; it looks for one match in each, not for all."""
        encoded = self.encoded
        start = pattern.first(encoded)
        if start >= 0 and encoded.count(_DIVIDER) >= len(self.messages):
            return self.messages  # one of them, as typed, holds the divider: any of them may match
        found: list[int] = []
        place = at = 0
        while start >= 0:
            place += encoded.count(_DIVIDER, at, start)
            found.append(self.messages[place])
            at = encoded.find(_DIVIDER, start) + 1
            if not at:
                break
            place += 1
            start = pattern.first(encoded, at)
        return found

    def messages_holding(self, sign: bytes) -> list[int]:
        """Return the messages that hold *sign*."""
        encoded = self.encoded
        found: list[int] = []
        place = at = 0
        start = encoded.find(sign)
        while start >= 0:
            place += encoded.count(_DIVIDER, at, start)
            found.append(self.messages[place])
            at = start
            end = encoded.find(_DIVIDER, start)
            start = encoded.find(sign, end) if end >= 0 else -1
        return found

    def messages_where(self, pattern: Linear, wanted: Callable[[int, int, bytes], bool]) -> list[int]:
        """Return the messages in which a match of *pattern* is *wanted*, of which no more matches are looked at.

        *wanted* gets the message, how many matches it had so far, and what matches. No match is empty.
        """
        encoded = self.encoded
        found: list[int] = []
        place = at = count = 0
        start, end = pattern.span(encoded)
        while start >= 0:
            passed = encoded.count(_DIVIDER, at, start)
            at = start
            if passed:
                place, count = place + passed, 0
            if wanted(self.messages[place], count, encoded[start:end]):
                found.append(self.messages[place])
                end = encoded.find(_DIVIDER, end)
                if end < 0:
                    break
            count += 1
            start, end = pattern.span(encoded, end)
        return found

    @cached_property
    def encoded(self) -> bytes:
        """The text as re2 wants it, which would encode it for each search."""
        return self.text.encode()

    def only(self, messages: Collection[int]) -> Joined:
        """Return *messages* of these as one text of their own."""
        places = [place for place, message in enumerate(self.messages) if message in messages]
        return Joined([self.messages[place] for place in places], [self._texts[place] for place in places])

    def messages_of_view(self, view: bytes, positions: Iterable[int]) -> set[int]:
        """Return the messages in which *positions* of a reading lie."""
        ends: list[int] = []
        at = view.find(_DIVIDER)
        while at >= 0:
            ends.append(at)
            at = view.find(_DIVIDER, at + 1)
        return {self.messages[bisect_right(ends, position)] for position in positions}


class Batch:
    """Candidates with their folded texts, and where a folded character came from."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = candidates
        self.texts = [candidate.text for candidate in candidates]
        self.folded, self._origins = fold_all(self.texts)

    @cached_property
    def joined(self) -> Joined:
        """The folded texts."""
        return Joined(range(len(self.texts)), self.folded)

    @cached_property
    def original_lines(self) -> Joined:
        """The texts as they were typed, for expressions that are to see accents and signs."""
        everyone = range(len(self.texts))
        return Joined(everyone, [self.searchable(message) for message in everyone])

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
        if self.folded[message] is self.texts[message]:
            return Span(start, end, shown)
        origin = self._origins.get(message)
        if origin is None:
            origin = self._origins[message] = Origin(self.texts[message])
        return Span(*origin.span(start, end), shown)
