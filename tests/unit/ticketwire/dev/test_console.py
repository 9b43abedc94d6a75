"""What `ticketwire dev` shows of its processes' logs."""

from __future__ import annotations

import io
import json

import pytest

from ticketwire.dev.console import Console

RECORD = {
    "time": "2026-05-01T12:00:01.123Z",
    "level": "warning",
    "tier": "ingest",
    "logger": "ingest.app",
    "event": "request refused",
    "code": "backlog",
    "reason": "too far behind",
    "waiting": 12,
}


def shown(line: str, colour: bool = False, name: str = "ingest") -> str:
    stream = io.StringIO()
    Console(stream, colour).log(name, line)
    return stream.getvalue()


def test_a_json_line_becomes_one_for_eyes() -> None:
    """Time, level when it is not info, event, then the fields."""
    assert shown(json.dumps(RECORD)) == (
        'ingest   | 12:00:01 warning: request refused  code=backlog reason="too far behind" waiting=12\n'
    )


@pytest.mark.parametrize("line", ["Traceback (most recent call last):", '"text"', "[1]", "{", '{"a": 1}', "null"])
def test_any_other_line_is_shown_as_it_is(line: str) -> None:
    """What a process prints before its logs are set up must not get lost."""
    assert shown(line) == f"ingest   | {line}\n"


@pytest.mark.parametrize("text", ["\x1b[2J", "\x07", "a\rb", "\x9b31m", "\u202e"])
def test_nothing_logged_steers_the_terminal(text: str) -> None:
    """A sender chooses some of what ends in a log."""
    for line in (text, json.dumps({"event": text}), json.dumps({"event": "x", "field": text})):
        assert shown(line).rstrip("\n").isprintable()


def test_each_process_keeps_its_colour() -> None:
    """The prefix tells at a glance who speaks; without colour no escape is written."""
    stream = io.StringIO()
    console = Console(stream, colour=True)
    for name in ("ingest", "worker-1", "ingest"):
        console.log(name, "x")
    first, second, third = stream.getvalue().splitlines()
    assert first == third
    assert first[:5] != second[:5]
    assert "\x1b" not in shown(json.dumps(RECORD))


def test_a_traceback_is_shown_below_its_event() -> None:
    """Line by line, as Python prints it."""
    text = shown(json.dumps({"event": "failed", "traceback": "Traceback:\n  line 1\nValueError: x\n"}))
    assert text.splitlines()[1:] == [" " * 11 + "Traceback:", " " * 13 + "line 1", " " * 11 + "ValueError: x"]


def test_a_reader_that_went_away_stops_nothing() -> None:
    """`ticketwire dev | head` must not kill what runs."""

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    console = Console(Closed(), colour=False)
    console.say("first")
    console.say("second")
