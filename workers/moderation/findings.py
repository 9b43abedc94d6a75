"""What a rule found, and how it is masked. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Span:
    """Characters from *start* to *end* of the original text, and what is shown instead."""

    start: int
    end: int
    shown: str


@dataclass(slots=True)
class Finding:
    """What one rule has to say about one message of a batch."""

    message: int
    detail: str
    spans: list[Span] = field(default_factory=list)  # nothing to mask when empty


def mask(text: str, spans: Sequence[Span]) -> str:
    """Return *text* with every span replaced.

    Spans that overlap become one, shown as the longest of them; neighbours stay two.
    """
    if len(spans) == 1:
        return text[: spans[0].start] + spans[0].shown + text[spans[0].end :]
    pieces: list[str] = []
    at = 0
    for span in merge(spans):
        pieces += text[at : span.start], span.shown
        at = span.end
    pieces.append(text[at:])
    return "".join(pieces)


def merge(spans: Iterable[Span]) -> list[Span]:
    """Return *spans* in order, those that overlap joined."""
    merged: list[Span] = []
    longest = 0
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if merged and span.start < merged[-1].end:
            last = merged[-1]
            shown = span.shown if span.end - span.start > longest else last.shown
            longest = max(longest, span.end - span.start)
            merged[-1] = Span(last.start, max(last.end, span.end), shown)
        else:
            merged.append(span)
            longest = span.end - span.start
    return merged
