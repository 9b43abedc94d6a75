"""Bytes become a message or one sentence, never anything else."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.parsing import (
    MISSING,
    Kind,
    idempotency_key,
    kind_of,
    read_fields,
    read_object,
    to_message,
    trace_of,
)
from ingest.service import digest_of
from schemas.events import Submitted
from schemas.problems import PROBLEMS
from ticketwire.errors import Rejected

SEND = (Kind.FORM, Kind.MULTIPART, Kind.JSON)
GOOD = {"ticket_id": "12345", "sender_id": "1", "message": "Hello"}
MULTIPART = b"multipart/form-data; boundary=XX"
BODY = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=200).filter(str.strip)


def multipart(*parts: bytes, end: bytes = b"--XX--\r\n") -> bytes:
    return b"".join(b"--XX\r\n" + part + b"\r\n" for part in parts) + end


def part(name: str, value: bytes, extra: bytes = b"") -> bytes:
    return b'Content-Disposition: form-data; name="' + name.encode() + b'"' + extra + b"\r\n\r\n" + value


def outcome(kind: Kind, content_type: bytes, body: bytes) -> Submitted | Rejected:
    """The message or the refusal; anything else that is raised fails the test."""
    try:
        return to_message(read_fields(kind, content_type, body), None, None)
    except Rejected as exc:
        return exc


def is_sound(found: Submitted | Rejected) -> bool:
    """A message, or a 4xx with a sentence."""
    return isinstance(found, Submitted) or (400 <= PROBLEMS[found.code].status < 500 and bool(found.detail))


PIECES = [
    b"--XX", b"--XX--", b"\r\n", b"\n", b"Content-Disposition: form-data; ", b'name="', b'"', b"message", b"ticket_id",
    b"Content-Type: multipart/mixed; boundary=XX", b"Content-Transfer-Encoding: base64", b"=", b"\xff",
    b"filename*=utf-8''%ff", b"\x00", b": ",
]  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
NAMES = st.sampled_from([*GOOD, "client_message_id", "x"])
ANY_JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner))
SIMPLE = st.tuples(st.sampled_from(["1", "11", "a"]), st.sampled_from(["1", "11"]), st.sampled_from(["x", "1", "1\nx"]))


def refusal(kind: Kind, body: bytes, content_type: bytes = b"") -> Rejected:
    with pytest.raises(Rejected) as caught:
        to_message(read_fields(kind, content_type, body), None, None)
    return caught.value


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        (b"application/x-www-form-urlencoded", Kind.FORM),
        (b"Application/X-WWW-Form-Urlencoded; Charset=UTF-8", Kind.FORM),
        (b"application/json", Kind.JSON),
        (b'application/json; charset="utf-8"', Kind.JSON),
        (b"multipart/form-data; boundary=a", Kind.MULTIPART),
    ],
)
def test_content_types_are_read_as_http_has_them(content_type: bytes, kind: Kind) -> None:
    """Upper and lower case are the same, parameters may follow."""
    assert kind_of(content_type, SEND) is kind


@pytest.mark.parametrize(
    ("content_type", "found"),
    [
        (None, "there is no Content-Type"),
        (b"text/plain", "Content-Type is 'text/plain'"),
        (b"application/x-ndjson", "Content-Type is 'application/x-ndjson'"),
        (b"", "Content-Type is ''"),
        (b"application/json; charset=latin-1", "charset is 'latin-1'"),
    ],
)
def test_other_content_types_are_refused_by_name(content_type: bytes | None, found: str) -> None:
    """The sentence says what was found and what is allowed."""
    with pytest.raises(Rejected) as caught:
        kind_of(content_type, SEND)
    assert caught.value.code == "unsupported_media_type"
    assert caught.value.detail.startswith(found)
    assert "allowed: " in caught.value.detail


@pytest.mark.parametrize("name", ["ticket_id", "sender_id", "message"])
@pytest.mark.parametrize("blank", [None, "", " ", "\t\r\n ", "\u00a0\u3000"])
def test_a_blank_value_counts_as_missing(name: str, blank: str | None) -> None:
    """As in the tutorial, in its own words, whether form or JSON."""
    fields: dict[str, Any] = {**GOOD, name: blank}
    assert refusal(Kind.JSON, json.dumps(fields).encode()).detail == MISSING
    if blank is None:
        del fields[name]
    assert refusal(Kind.FORM, urlencode(fields).encode()).detail == MISSING


@given(message=BODY, ticket=st.from_regex(r"[A-Za-z0-9._@-]{1,128}", fullmatch=True))
def test_every_way_of_writing_a_message_gives_the_same_message(message: str, ticket: str) -> None:
    """Form, form with bare UTF-8, multipart and JSON are four spellings of one thing."""
    fields = {"ticket_id": ticket, "sender_id": "1", "message": message}
    bare = "&".join(f"{k}={v}" for k, v in fields.items()).encode()
    written = [
        (Kind.FORM, b"", urlencode(fields).encode()),
        (Kind.FORM, b"", "&".join(f"{k}={quote(v)}" for k, v in fields.items()).encode()),
        (Kind.MULTIPART, MULTIPART, multipart(*(part(k, v.encode()) for k, v in fields.items()))),
        (Kind.JSON, b"", json.dumps(fields).encode()),
        (Kind.JSON, b"", json.dumps(fields, ensure_ascii=False).encode()),
    ]
    if not set("&+%=") & set(message):
        written.append((Kind.FORM, b"", bare))
    for kind, content_type, body in written:
        assert to_message(read_fields(kind, content_type, body), None, None) == Submitted(**fields)


@given(kind=st.sampled_from(SEND), body=st.binary(max_size=300), boundary=st.binary(max_size=20))
def test_no_bytes_cause_anything_but_a_problem_of_the_table(kind: Kind, body: bytes, boundary: bytes) -> None:
    """Whatever arrives, the sender gets a 4xx with a sentence, never a traceback."""
    assert is_sound(outcome(kind, b"multipart/form-data; boundary=" + boundary, body))


@given(st.lists(st.sampled_from(PIECES), max_size=60))
def test_no_broken_multipart_causes_anything_but_a_problem(pieces: list[bytes]) -> None:
    """The MIME parser of the standard library is lenient; what it makes of rubbish must still be a sentence."""
    assert is_sound(outcome(Kind.MULTIPART, MULTIPART, b"".join(pieces)))


@given(ANY_JSON)
def test_no_json_causes_anything_but_a_problem(value: Any) -> None:
    """Wrong types, in wrong places, to any depth."""
    assert is_sound(outcome(Kind.JSON, b"", json.dumps(value).encode()))


def test_multipart_nested_thousands_deep_is_refused() -> None:
    """The MIME parser recurses; its recursion limit must not become a 500."""
    deep = b"--XX\r\nContent-Type: multipart/mixed; boundary=XX\r\n\r\n" * 2_000
    assert refusal(Kind.MULTIPART, deep, MULTIPART).code == "bad_request"


@pytest.mark.parametrize(
    ("body", "code", "found"),
    [
        (b"ticket_id=1&sender_id=1&message=%ff", "invalid", "the form is not valid UTF-8"),
        (b"ticket_id=1&sender_id=1&message=\xff", "invalid", "the form is not valid UTF-8"),
        (b"ticket_id=1&sender_id=1&message=a&message=b", "invalid", "message is given twice"),
        (b"ticket_id=a:b&sender_id=1&message=a", "invalid", "ticket_id has 'a:b'"),
        (b"ticket_id=" + b"1" * 129 + b"&sender_id=1&message=a", "invalid", "ticket_id has 129 characters"),
        (b"ticket_id=1&sender_id=a%7Bb&message=a", "invalid", "sender_id has 'a{b'"),
        (b"ticket_id=1&sender_id=1&message=a%0Db", "invalid", "message has 3 characters with a control character"),
        (b"ticket_id=1&sender_id=1&message=a%00b", "invalid", "message has 3 characters with a control character"),
        (b"ticket_id=1&sender_id=1&message=" + b"a" * 8001, "invalid", "message has 8,001 characters, allowed: 1 to"),
        (b"a=1&" * 60 + b"message=x", "invalid", "the form has 61 fields, allowed: 50"),
    ],
)
def test_a_bad_form_is_refused_with_what_was_found(body: bytes, code: str, found: str) -> None:
    """And what is allowed."""
    caught = refusal(Kind.FORM, body)
    assert (caught.code, caught.detail[: len(found)]) == (code, found)


@pytest.mark.parametrize(
    ("body", "code", "found"),
    [
        (b"{", "bad_request", "the JSON cannot be read at line 1, column 2"),
        (b"\xff{}", "bad_request", "the JSON is not valid UTF-8 at byte 0"),
        (b"[1]", "invalid", "the JSON is of type array, allowed: an object"),
        (b'"x"', "invalid", "the JSON is of type string"),
        (b"7", "invalid", "the JSON is of type number"),
        (b"null", "invalid", "the JSON is of type null"),
        (b"[" * 100_000, "bad_request", "the JSON cannot be read: a number is too long or the nesting too deep"),
        (b'{"ticket_id":' + b"9" * 5_000 + b"}", "bad_request", "the JSON cannot be read: a number is too long"),
        (b'{"ticket_id":NaN}', "bad_request", "the JSON cannot be read"),
        (b'{"message":"a","message":"b"}', "invalid", "message is given 2 times, allowed: once"),
        (b'{"ticket_id":true,"sender_id":"1","message":"a"}', "invalid", "ticket_id is of type bool"),
        (b'{"ticket_id":1.5,"sender_id":"1","message":"a"}', "invalid", "ticket_id is of type float"),
        (b'{"ticket_id":-1,"sender_id":"a b","message":"a"}', "invalid", "sender_id has 'a b'"),
        (b'{"ticket_id":"1","sender_id":"1","message":5}', "invalid", "message is of type int"),
        (b'{"ticket_id":"1","sender_id":"1","message":["a"]}', "invalid", "message is of type list"),
        (b'{"ticket_id":"1","sender_id":"1","message":"\\ud800"}', "invalid", "message "),
        (b'{"ticket_id":"1","sender_id":"1","message":"a\\r\\nb"}', "invalid", "message has 4 characters with"),
        (b'{"ticket_id":"1","sender_id":"1","message":"a","client_message_id":7}', "invalid", "client_message_id is"),
    ],
)
def test_bad_json_is_refused_with_what_was_found(body: bytes, code: str, found: str) -> None:
    """Broken JSON is 400, readable JSON that breaks a rule is 422."""
    caught = refusal(Kind.JSON, body)
    assert (caught.code, caught.detail[: len(found)]) == (code, found)


def test_json_integers_are_ids() -> None:
    """The tutorial's proxy sends `ticket_id` as the number it has in its database."""
    message = to_message(read_object(b'{"ticket_id":12345,"sender_id":1,"message":"Hello"}'), None, None)
    assert (message.ticket_id, message.sender_id) == ("12345", "1")


def test_a_forms_line_breaks_become_newlines() -> None:
    """Browsers submit CR LF; stored is LF, so that a form and JSON give the same text."""
    parts = multipart(part("ticket_id", b"1"), part("sender_id", b"1"), part("message", b"a\r\nb"))
    for found in (
        outcome(Kind.FORM, b"", b"ticket_id=1&sender_id=1&message=a%0D%0Ab"),
        outcome(Kind.MULTIPART, MULTIPART, parts),
    ):
        assert isinstance(found, Submitted)
        assert found.message == "a\nb"


@pytest.mark.parametrize(
    ("body", "code", "found"),
    [
        (b"", "bad_request", "the multipart form cannot be read"),
        (multipart(part("message", b"x"), end=b""), "bad_request", "the multipart form cannot be read"),
        (multipart(part("message", b"x", b'; filename="a.txt"')), "invalid", "message is a file, allowed: a text"),
        (multipart(part("message", b"\xff")), "invalid", "message is not valid UTF-8"),
        (multipart(part("message", b"x"), part("message", b"y")), "invalid", "message is given 2 times"),
        (multipart(part("message", b"x")), "missing_parameters", MISSING),
    ],
)
def test_a_bad_multipart_form_is_refused_with_what_was_found(body: bytes, code: str, found: str) -> None:
    """Half a form must not pass for a short one."""
    caught = refusal(Kind.MULTIPART, body, MULTIPART)
    assert (caught.code, caught.detail[: len(found)]) == (code, found)


def test_unknown_names_are_ignored_and_cannot_reach_the_entry() -> None:
    """A form has its submit button; nobody may state a trace, a time or an origin this way."""
    fields = {**GOOD, "submit": "Send", "timestamp": "1", "original_id": "1-0", "trace_id": "0" * 32, "v": "9"}
    assert to_message(fields, None, None) == Submitted(**GOOD)


@pytest.mark.parametrize(
    ("header", "own", "key"),
    [
        ([b"abc"], None, "abc"),
        ([b'"abc"'], None, "abc"),
        ([b'"a\\"b\\\\c"'], None, 'a"b\\c'),
        ([], "abc", "abc"),
        ([b"abc"], "abc", "abc"),
        ([b"abc"], "", "abc"),
        ([], " ", None),
        ([], None, None),
    ],
)
def test_the_key_may_stand_in_the_header_or_in_the_body(header: list[bytes], own: str | None, key: str | None) -> None:
    """Bare, quoted, or in both places when both say the same."""
    message = to_message({**GOOD, "client_message_id": own}, idempotency_key(header), None)
    assert message.client_message_id == key


@pytest.mark.parametrize("header", [[b""], [b"a b"], [b'"a b"'], [b"\xff"], [b"x" * 129], [b"a", b"a"], [b'""']])
def test_a_bad_key_is_refused_rather_than_ignored(header: list[bytes]) -> None:
    """A sender that believes in its key must not find out later that it had none."""
    with pytest.raises(Rejected) as caught:
        idempotency_key(header)
    assert caught.value.code == "invalid"


def test_two_different_keys_are_refused() -> None:
    """Nobody could say which of them is meant."""
    with pytest.raises(Rejected) as caught:
        to_message({**GOOD, "client_message_id": "a"}, "b", None)
    assert caught.value.code == "invalid"


@pytest.mark.parametrize(
    ("header", "trace"),
    [
        (b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "4bf92f3577b34da6a3ce929d0e0e4736"),
        (b"01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", "4bf92f3577b34da6a3ce929d0e0e4736"),
        (b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
        (b"00-00000000000000000000000000000000-00f067aa0ba902b7-01", None),
        (b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", None),
        (b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", None),
        (b"nonsense", None),
        (None, None),
    ],
)
def test_only_a_valid_traceparent_gives_a_trace(header: bytes | None, trace: str | None) -> None:
    """W3C Trace Context: an invalid header counts as none."""
    assert trace_of(header) == trace


@given(st.lists(SIMPLE, min_size=2, max_size=2))
def test_digests_tell_messages_apart(pair: list[tuple[str, str, str]]) -> None:
    """Two messages have one digest exactly when sender, ticket and text are the same."""
    a, b = (Submitted(ticket_id=t, sender_id=s, message=m) for t, s, m in pair)
    assert (digest_of(a) == digest_of(b)) == (pair[0] == pair[1])
