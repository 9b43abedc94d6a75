"""Masks: exactly the spans, merged where they overlap."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from workers.moderation.findings import Span, mask, merge


def test_a_mask_replaces_exactly_its_span() -> None:
    assert mask("call 555 now", [Span(5, 8, "[phone]")]) == "call [phone] now"


def test_overlapping_spans_become_the_longest_of_them() -> None:
    """A phone number inside a card number leaves one [card], not two placeholders in each other."""
    assert mask("0123456789", [Span(2, 5, "[a]"), Span(3, 9, "[b]")]) == "01[b]9"


def test_neighbours_stay_two() -> None:
    assert mask("abcd", [Span(2, 4, "[y]"), Span(0, 2, "[x]")]) == "[x][y]"


spans = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 10)).map(lambda pair: Span(pair[0], pair[0] + pair[1], "#")),
    max_size=12,
)


@given(st.text(alphabet="ab", min_size=40, max_size=40), spans)
def test_what_no_span_covers_is_kept_and_nothing_else(text: str, spans: list[Span]) -> None:
    covered = {at for span in spans for at in range(span.start, span.end)}
    kept = "".join(char for at, char in enumerate(text) if at not in covered)
    assert mask(text, spans).replace("#", "") == kept
    merged = merge(spans)
    assert all(one.end <= other.start for one, other in pairwise(merged))
