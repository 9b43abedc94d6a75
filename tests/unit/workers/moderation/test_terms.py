"""Terms: found through disguises, not found in innocent words."""

from __future__ import annotations

import random
import string

import pytest

from workers.moderation.batch import Batch
from workers.moderation.normalise import fold
from workers.moderation.terms import MAX_EXPANDED_TERMS, TermIndex
from workers.moderation.verdict import Candidate
from workers.moderation.wordlist import Term, TermError, parse_terms

TERMS = parse_terms("damn*\nass\nblockhead\nnumb skull\n*darn*\ndirk (name)\ntwit")
ALLOWED = parse_terms("damnation alley\n")
INDEX = TermIndex([(0, term) for term in TERMS], [(0, term) for term in ALLOWED])


def found(text: str, index: TermIndex = INDEX) -> list[str]:
    folded = fold(text)
    batch = Batch([Candidate("t", "s", text, 0)])
    precise = index.find(folded, text)
    if precise:
        suspects = index.suspects(batch.joined)
        assert suspects == {0}, "the quick search must name every message in which the precise one finds something"
    return sorted({hit.term.text for hit in precise})


@pytest.mark.parametrize(
    "text",
    [
        "damn",
        "Damned",
        "d.a.m.n",
        "d a m n it",
        "da mn",
        "daaaamn",
        "damnn",
        "d4mn",
        "d@mn",
        "d*mn",
        "d**n",
        "dаmn",
        "ｄａｍｎ",
        "d\u200bamn",
        "d̶a̶m̶n̶",
        "\u202enmad",
        "da\nmn",
        "d_a_m_n",
        "D-4-M-N",
    ],
)
def test_a_term_is_found_in_every_disguise(text: str) -> None:
    assert found(text) == ["damn"]


@pytest.mark.parametrize("text", ["tw4t", "tw4t!", "tw4t!?", "tw4t!\nbye", "tw4t|", "tw4t+!"])
def test_signs_behind_a_disguised_word_are_no_letters_of_it(text: str) -> None:
    """`tw4t!?` was missed: only a space behind the sign, or another `!`, told that it ends the word."""
    index = TermIndex([(0, Term("twat"))])
    assert index.suspects(Batch([Candidate("t", "s", text, 0)]).joined)
    assert found(text, index) == ["twat"]


@pytest.mark.parametrize(
    "text",
    [
        "class",
        "as well as",
        "A55",
        "455",
        "assess",
        "the dam never broke",
        "it's ours",
        "Dirk Smith",
        "I asked Dirk about it",
        "twitter",
        "damnation alley",
        "x4ass9",
    ],
)
def test_innocent_text_is_left_alone(text: str) -> None:
    assert found(text) == []


def test_an_allowed_phrase_protects_only_itself() -> None:
    assert found("damnation alley, damn") == ["damn"]


def test_a_name_is_an_insult_behind_an_article() -> None:
    assert found("you are a Dirk") == ["dirk"]
    assert found("you dirk") == ["dirk"]


def test_a_phrase_is_found_across_signs_and_spaces() -> None:
    assert found("NUMB --\n skull!") == ["numb skull"]


def test_a_term_may_stand_anywhere_when_the_list_says_so() -> None:
    assert found("goldarnit") == ["darn"]


def test_of_a_short_term_no_letter_is_replaced_by_another() -> None:
    """`til` has the same skeleton as `tit`, and is an everyday word."""
    index = TermIndex([(0, Term("tit"))])
    assert found("til tomorrow", index) == []
    assert found("t1t", index) == ["tit"]


def test_a_term_is_never_found_across_two_messages() -> None:
    candidates = [Candidate("t", "s", "numb", 0), Candidate("t", "s", "skull", 0)]
    assert not INDEX.suspects(Batch(candidates).joined)


def test_a_hundred_thousand_terms_are_searched_and_found() -> None:
    rng = random.Random(7)
    words = {"".join(rng.choices(string.ascii_lowercase, k=rng.randint(6, 12))) for _ in range(100_000)}
    terms = [Term(word) for word in sorted(words)]
    assert len(terms) > MAX_EXPANDED_TERMS
    index = TermIndex((0, term) for term in terms)
    for term in rng.sample(terms, 200):
        assert term.text in found(f"so {term.text.upper()}!", index)
        assert term.text in found(" ".join(term.text), index), "spelled out"


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        ("good\n***\n", 2, "'***' has no letter to look for"),
        ("# comment\n\n" + "x" * 101, 3, "a term has 101 characters, 100 allowed"),
        ("#! langauge: en\n", 1, "found the header 'langauge', only language is known"),
    ],
)
def test_a_bad_line_of_a_list_is_named(content: str, line: int, reason: str) -> None:
    with pytest.raises(TermError) as caught:
        parse_terms(content)
    assert (caught.value.line, caught.value.reason) == (line, reason)


def test_a_list_states_its_language() -> None:
    assert parse_terms("#! language: de\nmist # comment\n") == [Term("mist", language="de")]
