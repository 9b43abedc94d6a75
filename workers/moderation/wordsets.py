"""Sets of words written as prose, which reads better in source than a column of strings. Pure."""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """Return the words of *text*, which white space divides."""
    return frozenset(text.split())
