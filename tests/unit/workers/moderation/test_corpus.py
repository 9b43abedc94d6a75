"""The corpus in tests/moderation/corpus: what the default policy must catch, and what it must not."""

from __future__ import annotations

import json
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from workers.moderation.chain import verdicts
from workers.moderation.policy_files import default_policy_path, load_policy
from workers.moderation.rules import RuleSet
from workers.moderation.verdict import Action, Candidate, Verdict

CORPUS = Path(__file__).parents[3] / "moderation" / "corpus"
FILES = ("evasions", "innocent", "personal_data")


@lru_cache(maxsize=1)
def judged() -> list[tuple[str, dict[str, Any], Verdict]]:
    lines = [
        (name, json.loads(line))
        for name in FILES
        for line in (CORPUS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    candidates = [Candidate("corpus", f"s{n}", line["text"], n * 60_000) for n, (_, line) in enumerate(lines)]
    results = verdicts(RuleSet(load_policy(default_policy_path())), candidates)
    return [(name, line, verdict) for (name, line), (_, verdict) in zip(lines, results, strict=True)]


@pytest.mark.parametrize("name", FILES)
def test_the_corpus_is_large_and_varied(name: str) -> None:
    lines = [line for found, line, _ in judged() if found == name]
    assert len(lines) >= 300
    assert len({line["text"] for line in lines}) == len(lines)
    assert len({line["pattern"] for line in lines}) >= 10
    assert {line["expect"] for line in lines} <= {action.value for action in Action}


def test_recall_of_every_rule_is_at_least_95_percent() -> None:
    wanted: Counter[str] = Counter()
    caught: Counter[str] = Counter()
    for _, line, verdict in judged():
        if line["expect"] != "allow":
            wanted[line["rule"]] += 1
            caught[line["rule"]] += line["rule"] in {hit.rule for hit in verdict.hits}
    assert {rule: caught[rule] / count for rule, count in wanted.items() if caught[rule] < 0.95 * count} == {}


def test_false_positives_are_at_most_one_percent() -> None:
    innocent = [(line["text"], verdict) for _, line, verdict in judged() if line["expect"] == "allow"]
    wrong = [(text, verdict.hits) for text, verdict in innocent if verdict.action is not Action.ALLOW]
    assert len(wrong) <= 0.01 * len(innocent), wrong


def test_the_verdict_is_the_expected_one() -> None:
    wrong = [line["text"] for _, line, verdict in judged() if verdict.action.value != line["expect"]]
    assert len(wrong) <= 0.01 * len(judged()), wrong


def test_masks_cover_exactly_the_personal_data() -> None:
    wrong = [
        (line["masked"], verdict.text)
        for _, line, verdict in judged()
        if "masked" in line and verdict.text != line["masked"]
    ]
    assert wrong == []
