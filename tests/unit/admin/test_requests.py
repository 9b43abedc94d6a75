"""What a filter means, and which reasons there are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ingest.admin.partitions import rate
from ingest.admin.requests import REASONS, LetterFilter, from_query
from schemas.problems import PROBLEMS
from ticketwire.bus.dead_letters import UNREADABLE, Letter, parse_name
from ticketwire.bus.overview import PartitionView

LETTER = Letter(
    partition=7,
    id="5-1",
    entry_id="5-1",
    reason="poison",
    error="",
    error_class="",
    stage="worker",
    attempts=5,
    first_at_ms=5,
    last_at_ms=1_000,
    worker="w",
    trace_id="",
    fields=["ticket_id", "T1", "sender_id", "1", "message", "x"],
    digest="",
)
VIEW = PartitionView(0, 10_000, 0, 0, None, "", 1, 0, "0-0", 100, 0, 100)


@pytest.mark.parametrize(
    ("given", "matches"),
    [
        ({}, True),
        ({"reason": "poison"}, True),
        ({"reason": "duplicate"}, False),
        ({"ticket": "T1"}, True),
        ({"ticket": "T2"}, False),
        ({"since": "1000"}, True),
        ({"since": "1001"}, False),
        ({"until": "1000"}, False),
        ({"until": "1001"}, True),
        ({"since": "1970-01-01T00:00:01Z", "until": "1970-01-01T00:00:01.001+00:00"}, True),
        ({"reason": "poison", "ticket": "T2"}, False),
    ],
)
def test_all_given_fields_must_apply_and_time_is_that_of_the_burial(given: dict[str, str], matches: bool) -> None:
    """`since` is inclusive, `until` is not, so two spans that touch share no letter."""
    assert from_query(LetterFilter, list(given.items())).matches(LETTER) is matches


def test_every_reason_but_our_own_is_a_code_of_the_one_table() -> None:
    assert [reason for reason in REASONS if reason != UNREADABLE and reason not in PROBLEMS] == []


def test_an_entry_that_is_no_message_gets_nothing_added() -> None:
    """And one that has an original id keeps it."""
    assert LETTER.fields_to_send() == [*LETTER.fields, "original_id", "5-1"]
    again = replace(LETTER, fields=[*LETTER.fields, "original_id", "3-0"])
    assert again.fields_to_send() == again.fields
    for strange in (["v", "9", *LETTER.fields], LETTER.fields[:4], ["\udcff", "x"]):
        assert replace(LETTER, fields=strange).fields_to_send() == strange


@pytest.mark.parametrize("text", ["", "7", "7:", ":5-1", "x:5-1", "8:5-1", "-1:5-1", "07:5-1-1", "07: 5-1", "٧:5-1"])
def test_an_id_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|partition"):
        parse_name(text, 8)
    assert parse_name("7:5", 8) == parse_name("07:5-0", 8) == (7, "5-0")


def test_a_rate_is_told_only_where_two_looks_allow_it() -> None:
    before = replace(VIEW, at_ms=8_000, settled=40)
    assert rate(VIEW, before) == 30.0
    assert rate(VIEW, None) is None
    assert rate(VIEW, replace(VIEW, at_ms=9_900)) is None, "too close together"
    assert rate(VIEW, replace(before, settled=200)) is None, "Redis was emptied in between"
