"""Verdicts: the strictest action wins, masks always apply, scopes hold."""

from __future__ import annotations

import pytest

from workers.moderation.flood import FloodMemory
from workers.moderation.policy_files import load_policy
from workers.moderation.rules import RuleSet
from workers.moderation.verdict import Action, Candidate, Verdict

POLICY = """
rules:
  - {id: pii, version: 3, kind: personal_data, action: mask, phone_regions: [US], show_last: 4}
  - {id: soft, kind: terms, action: mask, terms: [darn*]}
  - {id: hard, kind: terms, action: reject, terms: [vile]}
  - {id: watch, kind: terms, action: allow, terms: [refund]}
  - {id: ask, kind: patterns, action: hold, patterns: ['^urgent', 'wire\\s+money$']}
  - {id: accent, kind: patterns, action: mask, patterns: ['café'], shown: '[bar]'}
  - {id: agents, kind: terms, action: hold, terms: [secretly], scope: {roles: [agent]}}
  - {id: customers, kind: terms, action: hold, terms: [openly], scope: {except_roles: [agent]}}
  - {id: vip, kind: terms, action: hold, terms: [golden], scope: {ticket_prefixes: [vip-]}}
  - {id: german, kind: terms, action: hold, terms: [mist], scope: {languages: [de]}}
  - {id: long, kind: length, action: reject, max_characters: 200}
  - {id: shout, kind: capitals, action: hold}
  - {id: faces, kind: emoji, action: hold}
  - {id: flood, kind: flood, action: reject, messages: 5, seconds: 1}
"""


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> RuleSet:
    path = tmp_path_factory.mktemp("policy") / "policy.yaml"
    path.write_text(POLICY)
    return RuleSet(load_policy(path))


def judge(rules: RuleSet, text: str, role: str = "", ticket: str = "t") -> Verdict:
    return rules.judge([Candidate(ticket, "s", text, 0, role)], FloodMemory())[0]


def outcome(rules: RuleSet, text: str, role: str = "", ticket: str = "t") -> tuple[str, list[str]]:
    verdict = judge(rules, text, role, ticket)
    return verdict.action.value, [hit.rule for hit in verdict.hits]


@pytest.mark.parametrize(
    ("text", "action", "hit"),
    [
        ("hello", "allow", []),
        ("where is my refund", "allow", ["watch"]),
        ("darn this vile thing", "reject", ["soft", "hard"]),
        ("Urgent: wire   money", "hold", ["ask"]),
        ("not urgent; wire money now", "allow", []),
        ("x" * 201, "reject", ["long"]),
        ("WHY DOES NOBODY EVER ANSWER MY MESSAGES", "hold", ["shout"]),
        ("\U0001f600" * 20, "hold", ["faces"]),
    ],
)
def test_the_strictest_action_wins_and_every_rule_is_named(
    rules: RuleSet, text: str, action: str, hit: list[str]
) -> None:
    assert outcome(rules, text) == (action, hit)


def test_masks_apply_whatever_the_verdict(rules: RuleSet) -> None:
    """A rejected message is archived too, and its card number must not be."""
    verdict = judge(rules, "vile! card 4111 1111 1111 1111, darned")
    assert verdict.action is Action.REJECT
    assert verdict.text == "vile! card [card …1111], [removed]"
    first = verdict.hits[0]
    assert (first.rule, first.version, first.detail) == ("pii", 3, "card")


def test_no_hit_carries_what_it_found(rules: RuleSet) -> None:
    verdict = judge(rules, "darn, 4111111111111111 and a@b.com")
    assert all(
        "4111" not in hit.detail and "a@b" not in hit.detail and "darn" not in hit.detail for hit in verdict.hits
    )


def test_a_mask_lands_on_the_original_text(rules: RuleSet) -> None:
    """Found in folded text, masked in the typed one: accents and emoji around it stay as they were."""
    text = "čeština \U0001f600 ４１１１ １１１１ １１１１ １１１１ naïve"
    assert judge(rules, text).text == "čeština \U0001f600 [card …1111] naïve"
    assert judge(rules, "le café bleu").text == "le [bar] bleu"
    assert judge(rules, "le cafe bleu").action is Action.ALLOW, "patterns see accents unless they ask for folded text"


def test_scopes_decide_who_a_rule_looks_at(rules: RuleSet) -> None:
    assert outcome(rules, "secretly", role="agent") == ("hold", ["agents"])
    assert outcome(rules, "secretly", role="customer") == ("allow", [])
    assert outcome(rules, "openly", role="agent") == ("allow", [])
    assert outcome(rules, "openly") == ("hold", ["customers"])
    assert outcome(rules, "golden", ticket="vip-7") == ("hold", ["vip"])
    assert outcome(rules, "golden") == ("allow", [])


def test_a_language_rule_is_silent_in_another_language(rules: RuleSet) -> None:
    assert outcome(rules, "das ist doch alles mist") == ("hold", ["german"])
    assert outcome(rules, "the mist is on the hills and it was cold") == ("allow", [])
    assert outcome(rules, "mist") == ("hold", ["german"]), "one word may be in any language"


def test_verdicts_come_in_the_order_of_the_candidates(rules: RuleSet) -> None:
    """More than one chunk, ASCII and not, hits and none: each verdict is that of its own message."""
    texts = ["vile", "ok", "дарн vile", "日本", "darn", "x@example.com", ""] * 60
    candidates = [Candidate("t", f"s{n}", text, n) for n, text in enumerate(texts)]
    together = rules.judge(candidates, FloodMemory())
    alone = [rules.judge([candidate], FloodMemory())[0] for candidate in candidates]
    assert together == alone


def test_a_flood_is_stopped_in_the_middle_of_a_batch(rules: RuleSet) -> None:
    candidates = [Candidate("t", "s", f"line {n}", n) for n in range(7)]
    actions = [verdict.action.value for verdict in rules.judge(candidates, FloodMemory())]
    assert actions == ["allow"] * 5 + ["reject"] * 2
