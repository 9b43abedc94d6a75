"""Message ids are read and ordered as Redis reads and orders them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.message_id import ZERO, MessageId

halves = st.integers(0, 2**64 - 1)
ids = st.builds(MessageId, halves, halves)


@given(ids)
def test_an_id_survives_its_text(message_id: MessageId) -> None:
    assert MessageId.parse(str(message_id)) == message_id


@given(ids, ids)
def test_order_is_by_milliseconds_then_sequence(a: MessageId, b: MessageId) -> None:
    """Not by text: 9-0 comes before 10-0."""
    assert (a < b) == ((a.ms, a.seq) < (b.ms, b.seq))
    assert a >= ZERO


@pytest.mark.parametrize(
    "text", ["", "-", "1-", "-1", "a-0", "1-0-0", " 1-0", "1-0\n", "１-0", "18446744073709551616-0"]
)
def test_anything_else_is_refused_with_what_was_found(text: str) -> None:
    with pytest.raises(ValueError, match="message id is"):
        MessageId.parse(text)


def test_a_bare_number_means_sequence_zero_as_in_redis() -> None:
    assert MessageId.parse("1616690567456") == MessageId(1616690567456, 0)
