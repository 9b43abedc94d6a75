"""`ticketwire policy check` and `policy try`: exit codes and what is printed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from workers.moderation.cli import add_policy_commands


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_policy_commands(parser.add_subparsers())
    args = parser.parse_args(["policy", *arguments])
    code: int = args.func(args)
    return code


def test_check_says_what_a_good_policy_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("rules:\n  - {id: w, version: 4, kind: terms, action: hold, terms: [foo]}\n")
    assert run("check", str(path)) == 0
    assert "w v4  terms  hold" in capsys.readouterr().out


def test_check_says_where_a_bad_policy_is_bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("rules:\n  - {id: w, kind: terms, action: hold, term: [foo]}\n")
    assert run("check", str(path)) == 1
    assert capsys.readouterr().err.startswith(f"{path}:2:40: unknown key 'term', allowed are ")


def test_try_judges_a_text_by_the_default_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("try", "--text", "my card is 4111 1111 1111 1111") == 0
    assert json.loads(capsys.readouterr().out) == {
        "action": "mask",
        "rules": ["personal-data"],
        "text": "my card is [card]",
    }


def test_try_answers_each_line_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same text many times from nobody in particular is no flood: each line has its own sender."""
    lines = [{"text": "hello there, how are you today"}] * 40 + [
        {"text": "a@b.com", "sender_id": "x", "ticket_id": "t"}
    ]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run("try", "--jsonl", str(path)) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["action"] for answer in answers] == ["allow"] * 40 + ["mask"]


def test_try_prints_lone_surrogates_as_ascii(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "\\ud800 hi"}\n')
    assert run("try", "--jsonl", str(path)) == 0
    assert json.loads(capsys.readouterr().out)["text"] == "\ud800 hi"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"text": "a"}\n{"txt": "b"}\n', ':2: found no "text"'),
        ("not json\n", ":1: is no JSON"),
        ('{"text": "a", "sender_id": 5}', 'as "sender_id"'),
    ],
)
def test_a_bad_line_ends_with_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, reason: str
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(content)
    assert run("try", "--jsonl", str(path)) == 2
    assert reason in capsys.readouterr().err


def test_a_missing_file_ends_with_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("try", "--jsonl", str(tmp_path / "none")) == 2
    assert "cannot read" in capsys.readouterr().err


def test_schema_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("schema") == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Ticketwire moderation policy"
