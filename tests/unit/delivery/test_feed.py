"""The feed: next, duplicate or gap."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.feed import Feed, Verdict
from schemas.message_id import MessageId

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "feed.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_vectors(case: dict[str, Any]) -> None:
    """The browser runs the same ones."""
    feed = Feed(MessageId.parse(case["at"]))
    found = [feed.judge(MessageId.parse(event), MessageId.parse(prev)).value for event, prev, _ in case["events"]]
    assert found == [verdict for _, _, verdict in case["events"]]
    assert feed.at == MessageId.parse(case["ends"])


@given(st.lists(st.integers(0, 30), max_size=80))
def test_whatever_arrives_only_the_unbroken_chain_is_delivered(arrivals: list[int]) -> None:
    """Wake-ups lost, repeated and out of order: what is delivered is 1, 2, 3 … without a hole."""
    feed, delivered = Feed(MessageId(0, 0)), []
    for number in arrivals:
        if feed.judge(MessageId(number, 0), MessageId(max(0, number - 1), 0)) is Verdict.DELIVER:
            delivered.append(number)
    assert delivered == list(range(1, len(delivered) + 1))


def test_advance_takes_each_event_of_a_reading_once() -> None:
    """What came live while the log was read is not taken again from the page."""
    feed = Feed(MessageId(5, 0))
    assert [feed.advance(MessageId(n, 0)) for n in (4, 5, 6, 8)] == [False, False, True, True]
