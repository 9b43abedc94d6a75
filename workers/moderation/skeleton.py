"""The shapes in which a term hides in folded text: leet, doubled letters, s p a c e d. Pure.

A *skeleton* is a word in lower-case letters in which letters that are typed for one another (i and l,
u and v) are one letter. A *view* is a text cut into skeleton words by one reading of its digits and
signs; the words remember where they stood.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from copy import copy
from functools import cached_property
from itertools import accumulate, chain, compress, repeat
from operator import add, ne

from workers.moderation.confusables import CURRENCY_LETTERS, LOOSE

LEET_DIGITS = {"0": "o", "1": "i", "2": "z", "3": "e", "4": "a", "5": "s", "6": "g", "7": "t", "8": "b", "9": "g"}
LEET_SIGNS = {"@": "a", "$": "s", "!": "i", "|": "i", "+": "t"} | CURRENCY_LETTERS
# Signs that end a sentence or join words far oftener than they stand for a letter:
# they are letters only when one follows.
_MUST_PRECEDE_LETTER = re.compile(r"[!|+]+(?![^\W_]|[$@])")
SAME_LETTER = {"l": "i", "v": "u"}


def _table(letters: dict[str, str]) -> bytes:
    table = {code: " " for code in range(128) if not chr(code).isalpha()}
    table |= {ord(upper): upper.lower() for upper in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
    table |= {ord(sign): letter for sign, letter in letters.items()}
    table |= {ord(letter): same for letter, same in SAME_LETTER.items()}
    table |= {ord(letter.upper()): same for letter, same in SAME_LETTER.items()}
    # The separator of messages in a joined text; the apostrophe joins words and is dropped later.
    table |= {1: "\x01", ord("'"): "'"}
    return bytes(ord(table[code]) if code in table else code for code in range(256))


# Of UTF-8, in which every byte of another character is more than 127 and stays: many times faster than
# to translate a string that is not ASCII.
PLAIN_TABLE = _table({})
LEET_TABLE = _table(LEET_DIGITS | LEET_SIGNS)
# To drop, where only the letters count.
NO_PLAIN_LETTERS = bytes(code for code in range(128) if chr(PLAIN_TABLE[code]) in "' ")
NO_LEET_LETTERS = bytes(code for code in range(128) if chr(LEET_TABLE[code]) in "' ")

_LEET = re.compile("[0-9@$!|+\x02-\x07]")

_SINGLES = re.compile(r" \S \S \S ")
_WIDEST_GAP = 4
# A gap wider than the first one ends a word: people who space out letters space words wider.
_SPELLED = re.compile(
    "[^ ](?= )(?<![^ ]{2})(?:"
    + "|".join(rf" {{{gap}}}[^ ](?![^ ])(?: {{1,{gap}}}[^ ](?![^ ]))*+" for gap in range(1, _WIDEST_GAP + 1))
    + ")"
)
_NO_LETTER = re.compile(r"[^\w' ]")  # what is left of digits and underscores in folded text is ASCII
_EDGE_APOSTROPHE = re.compile(r"(?<![^ '])'|'(?![^ '])")
# One for each sign: a search for one byte is many times faster than for any of three.
_END_OF_WORD = {sign: re.compile(rb"\%c[!|+]*(?![A-Za-z0-9$@\x80-\xff])" % sign) for sign in b"!|+"}
_DOUBLED = re.compile(r"(.)\1")


def skeleton(word: str) -> str:
    """Return the skeleton of a folded term: lower-case letters, words divided by one space."""
    return " ".join(_translate(word.lower(), LEET_TABLE).replace("'", "").split())


def squeeze(word: str) -> str:
    """Return *word* with every run of one letter cut to one."""
    if _DOUBLED.search(word) is None:
        return word
    return "".join(compress(word, map(ne, word, chain(word[1:], (None,)))))


def has_leet(folded: str) -> bool:
    """Say whether *folded* reads differently when digits and signs are letters."""
    return not folded.isascii() or _LEET.search(folded) is not None


def calm(text: bytes) -> bytes:
    """Return *text* without the signs that no letter follows: only others may be letters."""
    for sign, end_of_word in _END_OF_WORD.items():
        if sign in text:
            text = end_of_word.sub(b" ", text)
    return text


def collapse(view: bytes) -> bytes:
    """Return *view* with one space before, between and behind its words."""
    return b" %b " % b" ".join(view.split())


# Words whose places are found one by one.
_FEW = 3


class View:
    """One text as skeleton words. `text` has one space before, between and behind them.

    A text may hold thousands of words, and terms in few of them: where a word stands is only worked out
    when it is asked for.
    """

    def __init__(self, source: str, ends: Mapping[int, int] | None = None) -> None:
        """*source*: the folded text with nothing but words, apostrophes inside them and spaces.

        *ends*: of words that stood apart in the folded text, by where they start.
        """
        self.source = source
        self._pieces = source.split(" ")
        self.words = list(filter(None, self._pieces))
        if "'" in source:
            self.words = [word.replace("'", "") for word in self.words]
        self.text = f" {' '.join(self.words)} "
        self._ends = ends or {}
        self._asked = 0

    def squeezed(self) -> View | None:
        """Return this view searched with every run of one letter cut to one; None if it has no run."""
        text = squeeze(self.text)
        if text == self.text:
            return None
        view = copy(self)  # with the places, if they are known
        view.__dict__.pop("_starts", None)
        view.text = text
        return view

    @cached_property
    def _starts(self) -> list[int]:
        """Where each word starts in `text`."""
        return list(accumulate(map(add, map(len, self.text.split()), repeat(1)), initial=1))

    def words_at(self, start: int, end: int) -> tuple[int, int]:
        """Return the first word and one past the last word that the match from *start* to *end* touches."""
        start += self.text[start] == " "
        end -= self.text[end - 1] == " "
        first = bisect_right(self._starts, start) - 1
        last = bisect_right(self._starts, end - 1)
        return first, last

    def span(self, first: int, last: int) -> tuple[int, int]:
        """Return where the words from *first* to before *last* stand in the folded text."""
        self._asked += 1
        if self._asked <= _FEW:
            start, size = self._place(last - 1)
            begin = start if first == last - 1 else self._place(first)[0]
        else:
            starts, sizes = self._places
            begin, start, size = starts[first], starts[last - 1], sizes[last - 1]
        return begin, self._ends.get(start) or start + size

    def _place(self, word: int) -> tuple[int, int]:
        """Return what `_places` has for one *word*, which is quicker to find out for a few of them."""
        rest = self.source.split(None, word)[word]
        size = rest.find(" ")
        return len(self.source) - len(rest), size if size >= 0 else len(rest)

    @cached_property
    def _places(self) -> tuple[list[int], list[int]]:
        """Where each word starts in the folded text, and how long it is there."""
        sizes = list(map(len, self._pieces))
        starts = map(add, accumulate(sizes, initial=0), range(len(sizes)))
        return list(compress(starts, sizes)), list(filter(None, sizes))


def _translate(text: str, table: bytes) -> str:
    return text.encode().translate(table).decode()


def _view(text: str) -> View:
    if not text.isascii():
        text = _NO_LETTER.sub(" ", text)
    if "'" in text:
        text = _EDGE_APOSTROPHE.sub(" ", text)
    return View(text)


def plain_view(folded: str) -> View:
    """Return the words of *folded*, digits and signs dividing them."""
    return _view(_translate(folded, PLAIN_TABLE))


def leet_view(folded: str) -> View:
    """Return the words of *folded*, digits and signs being letters."""
    text = _MUST_PRECEDE_LETTER.sub(lambda match: " " * len(match[0]), folded)
    if not folded.isascii():
        for other, letter in LOOSE.items():
            text = text.replace(other, letter)
    return _view(_translate(text, LEET_TABLE))


def has_single_letters(view: View) -> bool:
    """Say whether three single letters follow one another."""
    return _SINGLES.search(view.text) is not None


def spelled_view(view: View) -> tuple[View, list[tuple[str, tuple[int, int]]]]:
    """Return *view* with words that were s p e l l e d out put together, and these with where they stand."""
    ends: dict[int, int] = {}
    joined: list[tuple[str, tuple[int, int]]] = []

    def put_together(match: re.Match[str]) -> str:
        typed = match[0]
        letters = typed.replace(" ", "")
        if len(letters) < 3:
            return typed
        start, end = span = match.span()
        ends[start] = end
        joined.append((letters, span))
        return letters.ljust(len(typed))

    return View(_SPELLED.sub(put_together, view.source), ends), joined
