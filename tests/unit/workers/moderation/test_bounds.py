"""Any string gets a verdict in bounded time: 8,000 characters in 10 ms of CPU.

Milliseconds here are those of the machine on which the promise was measured. How fast another one is, and how
much its neighbours slow it down at the moment, is told by a fixed piece of work that is timed in between: a
verdict is compared with that. The bound is twice the promise, since the two are not slowed down alike.
"""

from __future__ import annotations

import gc
import random
import re
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ticketwire.lifecycle import settle_gc
from workers.moderation.flood import FloodMemory
from workers.moderation.policy_files import default_policy_path, load_policy
from workers.moderation.rules import RuleSet
from workers.moderation.verdict import Candidate

SIZE = 8_000
MOST_MS = 20.0
TRIES = 15
# Of `reference_work`, on the machine on which 10 ms were promised.
REFERENCE_MS = 1.0

RULES = RuleSet(load_policy(default_policy_path()))


@pytest.fixture(scope="module", autouse=True)
def _frozen() -> Iterator[None]:
    """Collect garbage as a worker does: rarely, and not what was there before the first message."""
    thresholds = gc.get_threshold()
    settle_gc()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


_WORD = re.compile(r"[^\W\d_]+")
_TEXT = "The parcel of order 4711 came on Monday; nobody was at home, so it's at the depot. " * 12


def reference_work() -> int:
    """Do what a verdict is made of: search, translate and split a text, count in dicts, make small objects."""
    seen: dict[str, int] = {}
    total = 0
    for turn in range(11):
        text = _TEXT.translate({ord("o"): "0", ord("e"): "3"}) if turn % 2 else _TEXT.lower()
        for match in _WORD.finditer(text):
            word = match[0]
            seen[word] = seen.get(word, 0) + match.end() - match.start()
        places = [(at, len(piece)) for at, piece in enumerate(text.split(" "))]
        total += sum(at * size for at, size in places)
    return total + len(seen)


def timed(work: Callable[[], object]) -> float:
    """Return the CPU milliseconds of this thread for *work*, without whatever traces it (coverage, a debugger)."""
    trace = sys.gettrace()
    sys.settrace(None)
    try:
        started = time.thread_time()
        work()
        return (time.thread_time() - started) * 1e3
    finally:
        sys.settrace(trace)


def cost(work: Callable[[], object], enough: float = MOST_MS / 3) -> float:
    """Return what *work* costs at best, in milliseconds of the reference machine.

    Stops trying when it is less than *enough*, which needs not be known better.
    """
    best = reference = float("inf")
    found = best
    for _ in range(TRIES):
        reference = min(reference, timed(reference_work))
        best = min(best, timed(work))
        reference = min(reference, timed(reference_work))
        found = best / reference * REFERENCE_MS
        if found < enough:
            break
    return found


def verdict_cost(text: str, enough: float = MOST_MS / 3) -> float:
    """Return the `cost` of a verdict about *text*."""
    return cost(lambda: RULES.judge([Candidate("t", "s", text, 0)], FloodMemory()), enough)


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
    "fractions": "¼",
    "fractions apart": "½ ",
    "fractions on lines": "¼\n",
    "abbreviations in one character": "㏂",
    "order numbers": "ref 415 555 2671 ",
    "tax numbers": "111.222.333-44 ",
    "short ids": "123-45-678 ",
    "card halves": "411111 1111 ",
    "words of many languages": "puta scheisse merde kurwa kut cazzo блять porra ",
}


# What was slow once, as beginning, what is repeated, and end.
STORIES = {
    "1.6 s: after each letter the rest was read again, for hosts in other letters": ("é a.com ", "a", ""),
    "the same with hyphens": ("é a.com ", "a-", ""),
    "110 ms: after each sign the rest was read again, for censored letters": ("a", "-0", ""),
    "one word of many near misses": ("ass", "as", ""),
    "one word of many terms": ("", "fuck", ""),
    "a broken word with a long end": ("fu ck", "x", ""),
    "private keys without an end": ("", "-----BEGIN PRIVATE KEY-----", "END"),
    "begun and never ended": ("", "hot girls free spins ", ""),
}


@pytest.mark.parametrize("name", PIECES)
def test_a_text_made_to_be_slow_is_not(name: str) -> None:
    assert verdict_cost((PIECES[name] * SIZE)[:SIZE]) < MOST_MS


@pytest.mark.parametrize("name", STORIES)
def test_what_was_slow_is_not_any_more(name: str) -> None:
    head, body, tail = STORIES[name]
    assert verdict_cost((head + body * SIZE)[: SIZE - len(tail)] + tail) < MOST_MS


def test_letters_put_together_are_looked_at_once() -> None:
    """188 ms: single letters made one word of thousands, taken apart anew for each of the terms found in it."""
    rng = random.Random(1)
    text = "".join(rng.choices(("f u c k ", "½ "), k=SIZE))[:SIZE]
    assert verdict_cost(text) < MOST_MS


@pytest.mark.parametrize("name", [*PIECES, *STORIES])
def test_eight_times_the_text_is_no_more_than_eight_times_the_work(name: str) -> None:
    """Twice of it at most, that is, since what fits into a cache is quicker; quadratic work would be 64 times."""
    head, body, tail = STORIES.get(name, ("", PIECES.get(name, ""), ""))
    short, long = ((head + body * SIZE)[: size - len(tail)] + tail for size in (SIZE // 8, SIZE))
    allowed = 2 * 8 * verdict_cost(short, enough=0)
    assert verdict_cost(long, enough=allowed / 2) < allowed


def test_work_that_takes_too_long_is_seen() -> None:
    """The measure can fail: more than the bound in reference work is more than the bound."""

    def work() -> None:
        for _ in range(int(1.5 * MOST_MS / REFERENCE_MS)):
            reference_work()

    assert cost(work) > MOST_MS


@pytest.mark.parametrize("first", [0x3400, 0x4E00, 0x10400, 0x1F000, 0x20000, 0xE000, 0x50000])
def test_eight_thousand_different_characters_are_not_slow(first: int) -> None:
    """Every one of them may be one that was never seen before."""
    assert verdict_cost("".join(map(chr, range(first, first + SIZE)))) < MOST_MS


def test_one_message_is_no_slower_in_a_batch() -> None:
    """Searching a joined text must not make the work of one message grow with its neighbours."""
    text = "sh1t a@b.co 4111 1111 1111 1111"
    alone = verdict_cost(text, enough=0)
    batch = [Candidate("t", f"s{n}", text, n) for n in range(128)]
    together = cost(lambda: RULES.judge(batch, FloodMemory()), enough=0)
    assert together / len(batch) < alone


nasty = st.text(
    alphabet=st.one_of(
        st.sampled_from("0123456789 -.@+()[]/:#*_'!$|\n\taefuckshiGBDE"),
        st.sampled_from(
            "\u200b\u200d\u202e\u202c\u0301\u0336\ufe0f\ufdfa\ud800\udfff\u00e9\u0441\u03c5\uff46\u00bc\u33c2"
        ),
        st.characters(),
    ),
    max_size=400,
)


# Hypothesis explains a failure under a tracer and shrinks it by what is slow at that moment: both would be noise.
@settings(max_examples=150, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(nasty, nasty, st.integers(1, SIZE))
def test_any_text_repeated_to_the_limit_gets_a_quick_verdict(head: str, piece: str, size: int) -> None:
    """Hypothesis looks for the piece whose repetition is slow."""
    text = head + piece * (SIZE // max(len(piece), 1) + 1)
    assert verdict_cost(text[: max(size, SIZE // 2)]) < MOST_MS


def test_random_mixtures_of_everything_get_a_quick_verdict() -> None:
    rng = random.Random(20_240_315)
    pieces = list(PIECES.values())
    for _ in range(40):
        chosen = rng.choices(pieces, k=rng.randint(1, 6))
        text = "".join(rng.choice(chosen) for _ in range(SIZE))[:SIZE]
        assert verdict_cost(text) < MOST_MS, repr(chosen)


def test_a_list_of_customers_is_masked_whole() -> None:
    """More pieces than are looked at one by one: none of them may get through."""
    text = " ".join(f"customer{n}@example.com" for n in range(300))
    (verdict,) = RULES.judge([Candidate("t", "s", text, 0)], FloodMemory())
    assert verdict.text == "[personal data]"


def test_a_pile_of_abuse_is_masked_whole() -> None:
    (verdict,) = RULES.judge([Candidate("t", "s", "you shit " * 500, 0)], FloodMemory())
    assert verdict.text == "[***]"
