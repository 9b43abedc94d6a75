"""Policy files: what is refused, where, and in which words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workers.moderation.policy import PolicyError, policy_schema
from workers.moderation.policy_files import default_policy_path, load_policy
from workers.moderation.rules import RuleSet

RULE = "rules:\n  - id: r\n    kind: terms\n    action: mask\n"


def write(folder: Path, content: str) -> Path:
    path = folder / "policy.yaml"
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("content", "line", "column", "reason"),
    [
        ("rules: []\nrule: 1\n", 2, 1, "unknown key 'rule', allowed are description, format, rules"),
        (RULE + "    terms: [x]\n    actoin: hold\n", 6, 5, "unknown key 'actoin', allowed are action, allow"),
        (RULE + "    terms: [x]\n    scope: {role: [a]}\n", 6, 13, "unknown key 'role', allowed are except_roles"),
        ("rules:\n  - id: r\n    kind: trems\n    action: mask\n", 3, 5, "unknown kind 'trems', allowed are capitals"),
        ("rules:\n  - id: r\n    action: mask\n", 2, 5, "the key 'kind' is missing"),
        ("rules:\n  - kind: length\n    max_characters: 5\n    action: mask\n", 2, 5, "the key 'id' is missing"),
        (
            RULE.replace("mask", "delete") + "    terms: [x]\n",
            4,
            5,
            "action: found 'delete', allowed is 'allow', 'mask'",
        ),
        (RULE, 2, 5, "found neither lists nor terms, one of them is needed"),
        (RULE + "    lists: [gone.txt]\n", 5, 13, "cannot read"),
        (
            RULE + "    lists: ['builtin:gone.txt']\n",
            5,
            13,
            "found the shipped list 'gone.txt', allowed are abuse.de.txt",
        ),
        (RULE + "    terms: [ok, '!!!']\n", 5, 17, "'!!!' has no letter to look for"),
        (RULE + "    terms: [x]\n  - id: r\n    kind: flood\n    action: hold\n", 1, 1, "two rules with the id 'r'"),
        (
            "rules:\n  - {id: r, kind: patterns, action: hold, patterns: ['(a)\\1']}\n",
            2,
            43,
            "pattern 1: expression is not accepted",
        ),
        ("rules:\n  - {id: r, kind: patterns, action: hold, patterns: ['x*']}\n", 2, 43, "matches the empty text"),
        ("rules:\n  - {id: r, kind: personal_data, action: mask, phone_regions: [UK]}\n", 2, 48, "found region 'UK'"),
        ("rules:\n  - {id: r, kind: length, action: hold, max_characters: 0}\n", 2, 41, "max_characters: found 0: "),
        ("rules: [\n", 2, 1, "is no YAML"),
        ("rules: \x07\n", 1, 8, "is no YAML"),
        ("a: &x 1\nb: *x\n", 2, 4, "found the alias *x, aliases are not allowed"),
        ("rules: []\nrules: []\n", 2, 1, "found the key 'rules' twice"),
        ("- 1\n", 1, 1, "found no mapping"),
        ("rules: " + "[" * 200 + "]" * 200, 1, 28, "is nested deeper than 20 levels"),
    ],
)
def test_a_bad_policy_is_refused_where_it_is_bad(
    tmp_path: Path, content: str, line: int, column: int, reason: str
) -> None:
    path = write(tmp_path, content)
    with pytest.raises(PolicyError) as caught:
        load_policy(path)
    error = caught.value
    assert reason in error.reason
    assert (error.file, error.line, error.column) == (str(path), line, column)
    assert str(error) == f"{path}:{line}:{column}: {error.reason}"


def test_a_bad_list_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("good\n\n???\n")
    with pytest.raises(PolicyError, match=r"words\.txt:3:1: '\?\?\?' has no letter"):
        load_policy(write(tmp_path, RULE + "    lists: [words.txt]\n"))


def test_a_list_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_bytes(b"good\nb\xe4d\n")
    with pytest.raises(PolicyError, match=r"words\.txt:2:1: is not UTF-8"):
        load_policy(write(tmp_path, RULE + "    lists: [words.txt]\n"))


def test_a_missing_policy_is_a_policy_error(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot read"):
        load_policy(tmp_path / "none.yaml")


@pytest.mark.parametrize("content", [b"", b"\x00", b"\xff\xfe", b"{", b"a: !!python/object:os.system x", b"? [a]\n: b"])
def test_any_bytes_are_refused_with_a_policy_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "policy.yaml"
    path.write_bytes(content)
    with pytest.raises(PolicyError):
        load_policy(path)


def test_the_default_policy_is_right_and_has_the_kinds_it_promises() -> None:
    policy = load_policy(default_policy_path())
    assert {rule.kind for rule in policy.document.rules} >= {"terms", "patterns", "links", "personal_data", "flood"}
    assert RuleSet(policy).external is None, "the default policy asks nobody outside"


def test_the_digest_changes_with_a_list(tmp_path: Path) -> None:
    """Two policies with one digest decide alike."""
    path = write(tmp_path, RULE + "    lists: [words.txt]\n")
    digests = set()
    for words in ("one\n", "two\n"):
        (tmp_path / "words.txt").write_text(words)
        digests.add(load_policy(path).digest)
    assert len(digests) == 2


def test_the_schema_describes_every_kind() -> None:
    text = json.dumps(policy_schema())
    for kind in ("terms", "patterns", "links", "personal_data", "flood", "length", "capitals", "emoji", "external"):
        assert f'"{kind}"' in text
