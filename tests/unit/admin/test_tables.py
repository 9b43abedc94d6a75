"""What an operator reads stands in columns, in one line each, and cannot move the cursor."""

from __future__ import annotations

import pytest

from ticketwire.admin.tables import cell, duration, moment, pairs, progress, table


def test_columns_are_aligned_and_numbers_stand_to_the_right() -> None:
    assert table(("name", "n"), [("a", 5), ("long", 100), ("b", None)]).splitlines() == [
        "NAME    N",
        "a       5",
        "long  100",
        "b       -",
    ]
    assert table(("name",), []) == "NAME"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (True, "yes"),
        (1234.56, "1,234.6"),
        ([], "-"),
        ([1, 2], "1,2"),
        ({"a": 1, "b": None}, "a 1, b -"),
        ("plain é", "plain é"),
        ("\x1b[31mred\nline", "\\x1b[31mred\\nline"),
        ("\udcff", "\\udcff"),
    ],
)
def test_a_cell_is_one_line_of_printable_text(value: object, shown: str) -> None:
    """Messages come from strangers: no escape sequence of theirs reaches the terminal."""
    assert cell(value) == shown


def test_times_are_told_as_people_read_them() -> None:
    assert moment(1_700_000_000_123) == "2023-11-14T22:13:20.123Z"
    assert moment(2**63) == f"{2**63} ms"
    assert moment(None) is None
    assert [duration(ms) for ms in (None, 1_500, 90_000, 7_200_000, 864_000_000)] == [
        None,
        "1.5 s",
        "1.5 min",
        "2.0 h",
        "10.0 days",
    ]


def test_progress_is_a_bar_once_the_total_is_known() -> None:
    assert progress("replay", 50, 100, 2.0) == f"replay [{'#' * 15}{'-' * 15}] 50/100, 25/s"
    assert progress("purge", 0, None, 0.1) == "purge: 0"
    assert pairs({"a": 1, "long": "x"}) == "a     1\nlong  x"
