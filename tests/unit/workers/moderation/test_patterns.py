"""Expressions of a policy: small, linear, and the same answer in a batch as alone."""

from __future__ import annotations

import time

import pytest

from workers.moderation.patterns import PatternSet, UnsafePattern, compile_safe


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (r"(a)\1", "not accepted by re2"),
        (r"(?=a)b", "not accepted by re2"),
        (r"(a", r"missing \)"),
        ("x" * 2_001, "expression has 2001 characters, 2000 allowed"),
        (r"((a{50}){40})b", "not accepted by re2|steps"),
        (r"[^x]{900}", "steps, 1500 allowed"),
        ("a*", "matches the empty text"),
    ],
)
def test_an_unsafe_expression_is_refused_with_its_reason(pattern: str, reason: str) -> None:
    with pytest.raises(UnsafePattern, match=reason):
        compile_safe(pattern)


def test_an_expression_that_ruins_backtracking_is_harmless() -> None:
    """`(a+)+$` takes the standard library years for 8,000 characters."""
    patterns = PatternSet([r"(a+)+$", r"(x|xx)+y"])
    started = time.process_time()
    assert list(patterns.find("a" * 7_999 + "!")) == []
    assert list(patterns.find("x" * 8_000)) == []
    assert time.process_time() - started < 0.05


def test_matches_are_places_in_the_text() -> None:
    assert list(PatternSet(["b+"]).find("abba b")) == [(1, 3), (5, 6)]


def test_refused_expressions_leave_standard_error_alone(capfd: pytest.CaptureFixture[str]) -> None:
    """re2 logs to standard error unless told not to, and would log the pattern."""
    with pytest.raises(UnsafePattern):
        compile_safe("(")
    assert capfd.readouterr().err == ""
