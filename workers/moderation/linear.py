"""Search with re2: linear time, and silent when its memory is used up. Pure.

The objects that the `re2` module makes for every match cost more than finding it; this asks the engine
itself, and answers with places.
"""

from __future__ import annotations

from collections.abc import Iterator

import re2

# Of the automaton that re2 builds while searching. When it is full, re2 starts it afresh.
MAX_MEMORY = 16 << 20

Place = tuple[int, int]

_ANYWHERE = re2._re2.RE2.Anchor.UNANCHORED
_NOWHERE = (-1, -1)


class Linear:
    """A compiled expression."""

    __slots__ = ("_match", "pattern", "steps")

    def __init__(self, pattern: str, max_memory: int = MAX_MEMORY, groups: bool = False) -> None:
        """Compile *pattern*; raises `re2.error`. re2 never writes to standard error about it.

        Without *groups*, parentheses do not capture: finding where groups lie takes re2 several times longer.
        """
        options = re2.Options()
        options.max_mem = max_memory
        options.log_errors = False
        options.never_capture = not groups
        compiled = re2.compile(pattern, options)
        self.pattern = pattern
        self.steps: int = compiled.programsize
        self._match = compiled._regexp.Match

    def first(self, encoded: bytes, start: int = 0) -> int:
        """Return the byte at which the first match from *start* on begins, or -1."""
        begin: int = self._match(_ANYWHERE, encoded, start, len(encoded))[0][0]
        return begin

    def span(self, encoded: bytes, start: int = 0) -> Place:
        """Return from which byte to which the first match from *start* on lies; `_NOWHERE` if there is none."""
        span: Place = self._match(_ANYWHERE, encoded, start, len(encoded))[0]
        return span

    def places(self, text: str) -> Iterator[Place]:
        """Yield where matches lie in *text*, one after the other."""
        for match in self.matches(text):
            yield match[0]

    def matches(self, text: str) -> Iterator[list[Place]]:
        """Yield where each match and its groups lie in *text*; (-1, -1) for a group that is not there."""
        encoded = text.encode()
        size = len(encoded)
        ascii_only = size == len(text)
        at = characters = counted = 0  # `counted` bytes are so many `characters`
        while True:
            spans: list[Place] = self._match(_ANYWHERE, encoded, at, size)
            start, end = spans[0]
            if start < 0:
                return
            if ascii_only:
                yield spans
            else:
                characters += len(encoded[counted:start].decode())
                counted = start
                yield [_characters(encoded, span, start, characters) for span in spans]
            if at == size:
                return
            at = end if end > at else _next_character(encoded, end)  # an empty match is not found for ever


def _next_character(encoded: bytes, at: int) -> int:
    at += 1
    while at < len(encoded) and encoded[at] & 0xC0 == 0x80:
        at += 1
    return at


def _characters(encoded: bytes, span: Place, start: int, characters: int) -> Place:
    """Return *span* of bytes, of a match that begins at the byte *start*, in characters."""
    if span == _NOWHERE:
        return span
    begin = characters + len(encoded[start : span[0]].decode())
    return begin, begin + len(encoded[span[0] : span[1]].decode())
