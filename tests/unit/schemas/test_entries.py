"""The entry codec: what goes in comes out, and what is no message is told apart with a reason."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.entries import (
    NotAMessage,
    decode_confirmed,
    decode_submitted,
    encode_change,
    encode_confirmed,
    encode_submitted,
)
from schemas.events import FORBIDDEN_IN_BODY, MAX_BODY, Change, Confirmed, Submitted, event_tail, plain_json

ids = st.text("abcXYZ019._@-", min_size=1, max_size=128)
keys = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=128)
bodies = st.text(min_size=1, max_size=200).filter(lambda text: not FORBIDDEN_IN_BODY.search(text))
optional = {
    "client_message_id": st.none() | keys,
    "trace_id": st.none() | st.text("0123456789abcdef", min_size=32, max_size=32),
    "original_id": st.none() | st.just("1616690567456-0"),
}
submitted = st.builds(
    Submitted, ticket_id=ids, sender_id=ids, message=bodies, timestamp=st.none() | st.integers(0, 2**40), **optional
)
confirmed = st.builds(
    Confirmed,
    ticket_id=ids,
    message_id=st.just("1616690567456-3"),
    sender_id=ids,
    message=bodies,
    timestamp=st.integers(0, 2**40),
    kind=st.just("message"),
    target_id=st.none(),
    **optional,
)
changes = st.builds(
    Confirmed,
    ticket_id=ids,
    message_id=st.just("1616690567456-3"),
    sender_id=ids,
    message=bodies,
    timestamp=st.integers(0, 2**40),
    client_message_id=st.none(),
    original_id=st.none(),
    trace_id=st.none(),
    kind=st.sampled_from(["message_deleted", "message_updated"]),
    target_id=st.just("1616690567455-0"),
)


@given(submitted)
def test_a_submitted_message_survives_the_stream(message: Submitted) -> None:
    assert decode_submitted(encode_submitted(message)) == message


@given(confirmed | changes)
def test_a_confirmed_event_survives_the_log(event: Confirmed) -> None:
    assert decode_confirmed(event.ticket_id, event.message_id, encode_confirmed(event)) == event


@given(confirmed)
def test_frames_are_json_and_the_plain_one_has_exactly_five_fields_in_order(event: Confirmed) -> None:
    plain = json.loads(plain_json(event))
    assert list(plain) == ["ticket_id", "message_id", "sender_id", "message", "timestamp"]
    assert plain["message"] == event.message
    whole = json.loads('{"prev_id":"0-0",' + event_tail(event))
    assert whole["type"] == "message"
    assert plain.items() <= whole.items()
    assert whole.get("client_message_id") == event.client_message_id


@given(changes)
def test_a_change_names_its_target_and_its_own_place(event: Confirmed) -> None:
    whole = json.loads('{"prev_id":"0-0",' + event_tail(event))
    assert (whole["type"], whole["message_id"], whole["event_id"]) == (event.kind, event.target_id, event.message_id)
    assert ("message" in whole) == (event.kind == "message_updated")


def test_a_change_travels_through_the_ingest_stream() -> None:
    change = Change(type="message_deleted", ticket_id="T1", sender_id="ann", target_id="5-0")
    assert decode_submitted(encode_change(change)) == change


GOOD = {"ticket_id": "T1", "sender_id": "1", "message": "Hello"}


def flat(pairs: dict[str, str]) -> list[str]:
    return [text for pair in pairs.items() for text in pair]


def test_an_entry_without_a_version_is_version_one() -> None:
    """A foreign producer may XADD the three fields and nothing else."""
    assert decode_submitted(flat(GOOD)) == Submitted(**GOOD)


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        ({"v": "2"}, "unknown_version", "version '2'"),
        ({"ticket_id": "a:b"}, "undecodable", "ticket_id has 'a:b', allowed: 1 to 128"),
        ({"ticket_id": "a*"}, "undecodable", "ticket_id"),
        ({"\udcff": "x"}, "undecodable", "a field's name is not valid UTF-8"),
        ({"ticket_id": "a{1}"}, "undecodable", "ticket_id"),
        ({"ticket_id": ""}, "undecodable", "ticket_id"),
        ({"sender_id": "x" * 129}, "undecodable", "129 characters"),
        ({"message": ""}, "undecodable", "0 characters"),
        ({"message": "x" * (MAX_BODY + 1)}, "undecodable", "8,001 characters"),
        ({"message": "a\x00b"}, "undecodable", "control character"),
        ({"message": "a\x1b[2Jb"}, "undecodable", "control character"),
        ({"message": "a\x85b"}, "undecodable", "control character"),
        ({"message": "a\udcffb"}, "undecodable", "invalid UTF-8"),
        ({"timestamp": "soon"}, "undecodable", "timestamp"),
        ({"client_message_id": "a b"}, "undecodable", "client_message_id"),
        ({"colour": "red"}, "undecodable", "'colour' is not known"),
    ],
)
def test_what_is_no_message_is_refused_with_what_was_found_and_what_is_allowed(
    change: dict[str, str], code: str, told: str
) -> None:
    with pytest.raises(NotAMessage) as caught:
        decode_submitted(flat({**GOOD, **change}))
    assert caught.value.code == code
    assert told in caught.value.detail
    assert not change.get("message") or change["message"] not in caught.value.detail, "a body is never quoted"


def test_newline_and_tab_are_the_only_control_characters() -> None:
    text = "line one\n\tline two"
    assert decode_submitted(flat({**GOOD, "message": text})).message == text


def test_a_log_written_by_the_tutorials_own_controller_can_be_read() -> None:
    event = decode_confirmed("9", "1616690567456-0", ["sender_id", "1", "message", "Hi", "timestamp", "1616690567"])
    assert event == Confirmed("9", "1616690567456-0", "1", "Hi", 1616690567)
