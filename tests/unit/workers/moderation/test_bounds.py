"""Any string gets a verdict in bounded time: 8,000 characters in 10 ms of CPU."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.moderation.flood import FloodMemory
from workers.moderation.policy_files import default_policy_path, load_policy
from workers.moderation.rules import RuleSet
from workers.moderation.verdict import Candidate

SIZE = 8_000
# The promise is 10 ms on an idle core; the best of several tries is measured, and a machine that
# runs other tests at the same time gets twice that.
MOST_SECONDS = 0.020
TRIES = 6

RULES = RuleSet(load_policy(default_policy_path()))


def seconds(text: str) -> float:
    """Return the least CPU time of several verdicts about *text*."""
    best = float("inf")
    for at in range(TRIES):
        memory = FloodMemory()
        started = time.process_time()
        (verdict,) = RULES.judge([Candidate("t", "s", text, at)], memory)
        best = min(best, time.process_time() - started)
        assert isinstance(verdict.text, str)
        if best < MOST_SECONDS / 4:
            break
    return best


PIECES = {
    "one letter": "a",
    "digits": "1",
    "digits apart": "4 ",
    "cards that fail": "4111 1111 1111 1112 ",
    "card beginnings": "4111 ",
    "phones": "415-555-2671 ",
    "plus signs": "+1 ",
    "national phones": "07911 123456 ",
    "pairs": "12-",
    "brackets": "(1)",
    "dots": "1.",
    "IBAN beginnings": "GB11 ",
    "IBANs that fail": "DE89 3704 0044 0532 0130 01 ",
    "addresses": "a@b.co ",
    "ats": "@",
    "spoken addresses": "a at b dot ",
    "ids": "123-45-6789 ",
    "private keys": "-----BEGIN PRIVATE KEY-----",
    "tokens": "token: a1b2c3d4 ",
    "passwords": "password ",
    "links": "a.co ",
    "schemes": "http://",
    "short links": "http://bit.ly/a ",
    "accented links": "é.com ",
    "labels": "a.",
    "hyphens": "a-",
    "abuse": "shit ",
    "abuse drawn out": "fuuuck ",
    "abuse in leet": "sh1t ",
    "abuse spaced": "f u c k ",
    "abuse censored": "f*ck ",
    "abuse underscored": "fu_ck-",
    "abuse in full width": "ｆｕｃｋ ",
    "names": "Dick ",
    "single letters": "a b ",
    "stars": "x*",
    "apostrophes": "'a",
    "exclamations": "s!",
    "spaces": " ",
    "line breaks": "\n",
    "joiners": "\u200d",
    "letters with joiners": "f\u200d",
    "mark tower": "\u0301\u0316",
    "overrides": "\u202e",
    "override words": "\u202ekcuf\u202c ",
    "long ligature": "\ufdfa",
    "lone surrogates": "\ud800",
    "Cyrillic": "сим карта ",
    "Hangul": "가나",
    "emoji": "\U0001f600",
    "scam words": "verify your account ",
    "gift cards": "buy gift card send ",
    "hashes": "d41d8cd98f00b204e9800998ecf8427e ",
    "everything": "4111 1111 1111 1111 a@b.co sh1t f u c k http://x.tk +44 20 7946 0958 ",
    "everything accented": "é4111 1111 1111 1111 a@b.co sh1t f u c k http://x.tk +44 20 7946 0958 ",
}


@pytest.mark.parametrize("name", PIECES)
def test_a_text_made_to_be_slow_is_not(name: str) -> None:
    text = (PIECES[name] * SIZE)[:SIZE]
    assert seconds(text) < MOST_SECONDS


def test_eight_thousand_different_characters_are_not_slow() -> None:
    """Every one of them is a look-up that no table has seen before."""
    for first in (0x3400, 0x4E00, 0x10400, 0x1F000, 0x20000, 0xE000):
        text = "".join(map(chr, range(first, first + SIZE)))
        assert seconds(text) < MOST_SECONDS


@pytest.mark.parametrize("piece", ["¼", "½ ", "¼\n"])
def test_characters_that_fold_to_three_are_not_slow(piece: str) -> None:
    """8,000 fractions fold to 24,000 characters of digits: phone numbers were looked for at every one, for 22 ms."""
    assert seconds((piece * SIZE)[:SIZE]) < MOST_SECONDS


def test_one_message_is_no_slower_in_a_batch() -> None:
    """Searching a joined text must not make the work of one message grow with its neighbours."""
    texts = ["sh1t a@b.co 4111 1111 1111 1111"] * 128
    candidates = [Candidate("t", f"s{n}", text, n) for n, text in enumerate(texts)]
    best = float("inf")
    for _ in range(3):
        started = time.process_time()
        RULES.judge(candidates, FloodMemory())
        best = min(best, time.process_time() - started)
    assert best / len(texts) < 0.001


nasty = st.text(
    alphabet=st.one_of(
        st.sampled_from("0123456789 -.@+()[]/:#*_'!$|\n\taefuckshiGBDE"),
        st.sampled_from("\u200b\u200d\u202e\u202c\u0301\u0336\ufe0f\ufdfa\ud800\udfff\u00e9\u0441\u03c5\uff46"),
        st.characters(),
    ),
    max_size=400,
)


@settings(max_examples=150, deadline=None)
@given(nasty, st.integers(1, SIZE))
def test_any_text_repeated_to_the_limit_gets_a_quick_verdict(piece: str, size: int) -> None:
    """Hypothesis looks for the piece whose repetition is slow."""
    text = (piece * (SIZE // max(len(piece), 1) + 1))[: max(size, SIZE // 2)]
    assert seconds(text) < MOST_SECONDS


def test_random_mixtures_of_everything_get_a_quick_verdict() -> None:
    rng = random.Random(20_240_315)
    pieces = list(PIECES.values())
    for _ in range(40):
        chosen = rng.choices(pieces, k=rng.randint(1, 6))
        text = "".join(rng.choice(chosen) for _ in range(SIZE))[:SIZE]
        assert seconds(text) < MOST_SECONDS, repr(chosen)


def test_a_list_of_customers_is_masked_whole() -> None:
    """More pieces than are looked at one by one: none of them may get through."""
    text = " ".join(f"customer{n}@example.com" for n in range(300))
    (verdict,) = RULES.judge([Candidate("t", "s", text, 0)], FloodMemory())
    assert verdict.text == "[personal data]"


def test_a_pile_of_abuse_is_masked_whole() -> None:
    (verdict,) = RULES.judge([Candidate("t", "s", "you shit " * 500, 0)], FloodMemory())
    assert verdict.text == "[***]"
