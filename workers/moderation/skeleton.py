"""The shapes in which a term hides in folded text: leet, doubled letters, s p a c e d. Pure.

A *skeleton* is a word in lower-case letters in which letters that are typed for one another (i and l,
u and v) are one letter. A *view* is a text cut into skeleton words by one reading of its digits and
signs; the words remember where they stood.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate

from workers.moderation.confusables import CURRENCY_LETTERS, LOOSE

LEET_DIGITS = {"0": "o", "1": "i", "2": "z", "3": "e", "4": "a", "5": "s", "6": "g", "7": "t", "8": "b", "9": "g"}
LEET_SIGNS = {"@": "a", "$": "s", "!": "i", "|": "i", "+": "t"} | CURRENCY_LETTERS
# Signs that end a sentence or join words far oftener than they stand for a letter:
# they are letters only when one follows.
_MUST_PRECEDE_LETTER = re.compile(r"[!|+]+(?![^\W_]|[$@])")
SAME_LETTER = {"l": "i", "v": "u"}


def _table(letters: dict[str, str]) -> dict[int, str]:
    table = {code: " " for code in range(128) if not chr(code).isalpha()}
    table |= {ord(upper): upper.lower() for upper in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
    table |= {ord(sign): letter for sign, letter in letters.items()}
    table |= {ord(letter): same for letter, same in SAME_LETTER.items()}
    table |= {ord(letter.upper()): same for letter, same in SAME_LETTER.items()}
    # The separator of messages in a joined text; the apostrophe joins words and is dropped later.
    return table | {1: "\x01", ord("'"): "'"}


PLAIN_TABLE = _table({})
LEET_TABLE = _table(LEET_DIGITS | LEET_SIGNS)
LOOSE_TABLE = _table(LEET_DIGITS | LEET_SIGNS | LOOSE)


def _without(dropped: str, table: dict[int, str]) -> dict[int, str | None]:
    return {code: None if char in dropped else char for code, char in table.items()}


# For joined texts, that is for words with one space or several between them: to make it one costs more
# than the search. And for the letters alone, in which a phrase is found however its words are divided.
PLAIN_WORDS, PLAIN_LETTERS = _without("'", PLAIN_TABLE), _without("' ", PLAIN_TABLE)
LEET_WORDS, LEET_LETTERS = _without("'", LEET_TABLE), _without("' ", LEET_TABLE)

_LEET = re.compile("[0-9@$!|+\x02-\x07]")

_SINGLES = re.compile(r" \S \S \S ")
_WIDEST_GAP = 4
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_END_OF_WORD = re.compile("![! ]")
_DOUBLED = re.compile(r"(.)\1+")


def skeleton(word: str) -> str:
    """Return the skeleton of a folded term: lower-case letters, words divided by one space."""
    return " ".join(word.lower().translate(LEET_TABLE).replace("'", "").split())


def squeeze(word: str) -> str:
    """Return *word* with every run of one letter cut to one."""
    return _DOUBLED.sub(r"\1", word)


def has_leet(folded: str) -> bool:
    """Say whether *folded* reads differently when digits and signs are letters."""
    return not folded.isascii() or _LEET.search(folded) is not None


def calm(text: str) -> str:
    """Return *text* without the exclamation marks that end a word: only others may be letters."""
    return _END_OF_WORD.sub("  ", text) if "!" in text else text


def collapse(view: str) -> str:
    """Return *view* with one space before, between and behind its words."""
    return f" {' '.join(view.split())} "


@dataclass(slots=True)
class View:
    """One text as skeleton words. `text` has one space before, between and behind them."""

    words: list[str]
    spans: list[tuple[int, int]]  # of each word in the folded text
    shapes: list[str]  # of each word, as it is searched
    text: str = field(init=False)
    _starts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.text = f" {' '.join(self.shapes)} "
        self._starts = list(accumulate((len(shape) + 1 for shape in self.shapes), initial=1))

    def words_at(self, start: int, end: int) -> tuple[int, int]:
        """Return the first word and one past the last word that the match from *start* to *end* touches."""
        start += self.text[start] == " "
        end -= self.text[end - 1] == " "
        first = bisect_right(self._starts, start) - 1
        last = bisect_right(self._starts, end - 1)
        return first, last


def _view(text: str) -> View:
    matches = list(_WORD.finditer(text))
    words = [match[0] for match in matches]
    if "'" in text:
        words = [word.replace("'", "") for word in words]
    return View(words, [match.span() for match in matches], words)


def plain_view(folded: str) -> View:
    """Return the words of *folded*, digits and signs dividing them."""
    return _view(folded.translate(PLAIN_TABLE))


def leet_view(folded: str) -> View:
    """Return the words of *folded*, digits and signs being letters."""
    folded = _MUST_PRECEDE_LETTER.sub(lambda match: " " * len(match[0]), folded)
    return _view(folded.translate(LEET_TABLE if folded.isascii() else LOOSE_TABLE))


def squeezed_view(view: View) -> View | None:
    """Return *view* searched with every run of one letter cut to one; None if it has no run."""
    text = squeeze(view.text)
    if text == view.text:
        return None
    return View(view.words, view.spans, text[1:-1].split(" "))


def has_single_letters(view: View) -> bool:
    """Say whether three single letters follow one another."""
    return _SINGLES.search(view.text) is not None


def spelled_view(view: View) -> tuple[View, list[int]]:
    """Return *view* with words that were s p e l l e d out put together, and which words those are.

    A gap wider than the first one ends a word: people who space out letters space words wider.
    """
    words: list[str] = []
    spans: list[tuple[int, int]] = []
    joined: list[int] = []
    first, gap = 0, 0  # of the single letters in hand: how many words lie before them, and their gap
    for word, span in zip(view.words, view.spans, strict=True):
        single = len(word) == 1
        here = span[0] - spans[-1][1] if spans else 0
        if not single or (len(words) > first and here > (gap or _WIDEST_GAP)):
            _join(words, spans, first, joined)
            first, gap = len(words), 0
        elif len(words) > first:
            gap = gap or here
        words.append(word)
        spans.append(span)
        if not single:
            first = len(words)
    _join(words, spans, first, joined)
    return View(words, spans, words), joined


def _join(words: list[str], spans: list[tuple[int, int]], first: int, joined: list[int]) -> None:
    """Make one word of those from *first* on, if there are at least three."""
    if len(words) - first >= 3:
        words[first:] = ["".join(words[first:])]
        spans[first:] = [(spans[first][0], spans[-1][1])]
        joined.append(first)
