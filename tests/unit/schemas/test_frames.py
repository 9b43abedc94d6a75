"""The frames' one definition: golden frames, explained mistakes, and documents that say the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from schemas.frames import ANSWER, CLIENT_FRAMES, SERVER_FRAMES, BadFrame, read_request
from schemas.problems import PROBLEMS
from ticketwire.protocol_documents import documents

ROOT = Path(__file__).parents[3]
GOLDEN = json.loads((ROOT / "tests" / "vectors" / "frames.json").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("frame", GOLDEN["client"], ids=lambda frame: str(frame["type"]))
def test_golden_client_frames_are_accepted(frame: dict[str, Any]) -> None:
    """As they stand, and read back with the same values."""
    read = read_request(json.dumps(frame)).model_dump()
    assert {name: read[name] for name in frame} == frame


@pytest.mark.parametrize("frame", GOLDEN["server"], ids=lambda frame: str(frame["type"]))
def test_golden_server_frames_keep_to_the_definition(frame: dict[str, Any]) -> None:
    """Whoever writes a client from them gets what the server may send."""
    assert ANSWER.validate_python(frame, strict=True) == frame


def test_there_is_a_golden_frame_of_every_type() -> None:
    """A new type needs one."""
    assert {frame["type"] for frame in GOLDEN["client"]} == set(CLIENT_FRAMES)
    assert {frame["type"] for frame in GOLDEN["server"]} == set(SERVER_FRAMES)


@pytest.mark.parametrize("wrong", GOLDEN["wrong"], ids=lambda wrong: str(wrong["text"]))
def test_a_wrong_frame_is_refused_by_code_and_sentence(wrong: dict[str, str]) -> None:
    """The code is one of the table, the sentence says what is allowed or missing."""
    with pytest.raises(BadFrame) as caught:
        read_request(wrong["text"])
    assert caught.value.code == wrong["code"]
    assert wrong["code"] in PROBLEMS


@pytest.mark.parametrize("name", sorted(documents()))
def test_the_generated_documents_are_current(name: str) -> None:
    """`make docs` after a change of frames or problems."""
    assert (ROOT / "docs" / "protocol" / name).read_text(encoding="utf-8") == documents()[name]


def test_every_reference_of_the_documents_leads_somewhere() -> None:
    """Tools follow them."""
    for text in documents().values():
        whole = json.loads(text)
        for reference in _references(whole):
            found = whole
            for part in reference.removeprefix("#/").split("/"):
                found = found[part]


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for inner in value.values() for found in _references(inner)]
    return [found for inner in value for found in _references(inner)] if isinstance(value, list) else []


@pytest.mark.parametrize("kind", [*CLIENT_FRAMES, *SERVER_FRAMES])
def test_the_page_explains_every_frame(kind: str) -> None:
    """In a table row of its own."""
    assert f"| `{kind}` |" in PAGE


def test_the_page_names_every_field() -> None:
    """Of both sides."""
    fields = {name for frame in CLIENT_FRAMES.values() for name in frame.model_fields}
    fields |= {name for frame in SERVER_FRAMES.values() for name in frame.__annotations__}
    assert sorted(name for name in fields if f"`{name}`" not in PAGE) == []


def test_the_page_has_every_close_code_and_every_error_of_a_socket() -> None:
    """As the table of problems has them."""
    for problem in PROBLEMS.values():
        if problem.close is not None:
            assert f"| {problem.close} | `{problem.code}` | {problem.meaning} |" in PAGE
    for code in ("unknown_type", "not_subscribed", "too_many_tickets", "conflict", "invalid"):
        assert f"`{code}`" in PAGE
