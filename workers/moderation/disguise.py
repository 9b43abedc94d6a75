"""Say whether what looks like a disguised term is one. Pure.

The views of `skeleton` are generous, so that few patterns find many spellings; here the spelling is
looked at once more. The limits come from tests/moderation/corpus: `Samsung A55`, `who re-sent it`
and `as` must pass, `sh1t`, `fu ck` and `asssss` must not.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import compress, islice
from operator import ne
from typing import NamedTuple

from workers.moderation.confusables import LOOSE
from workers.moderation.linear import Linear
from workers.moderation.skeleton import LEET_DIGITS, LEET_SIGNS, squeeze
from workers.moderation.wordlist import Term
from workers.moderation.wordsets import words

# Words, and remains of contractions, that stand next to each other in innocent text.
COMMON = words(
    """
    a about ad age al all am an and any are arm art as at ate auto bad bar bas be bed bi big bit but by can
    car cat co con cop cup cut d da day de del den did do dog don dr e end er ex fan far few for g gap get
    go got had hair has hat he head hen her him his ho hole hot how i id if in ing ion is it its jack job
    ken kin la le led let lie ll low m ma man map may me men met mo mon moth mother my n nal new no non not
    now o of off ok old on one or our out over own p pa par pay pe pen per pet pi pick pre pro pub put r ra
    ran re red rid rob run s sad saw say see set sex she sit so son sub sun t ta tap tar ten the their them
    then there they this ti tip to too top try tu two un up us use van ve w war was way we wet when who why
    will win with x y yet you your z
    """
)

_ENDINGS = words("s es z ed er ers ing in ings y head heads hole holes face off you") | {""}
# Words before a name that make it an insult.
_INSULTING = words("a an you such total this that absolute complete fucking little big stupid your")


# What only `TermIndex.find` sees through: drawn-out or oddly doubled letters, single letters in a row,
# signs inside a word. Must find every text of which one of the other views finds more than the first two.
_UNUSUAL_PAIRS = "|".join(letter * 2 for letter in "ahijkquvxy")
_TRIPLES = "|".join(letter * 3 for letter in "bcdefgmnoprstzl") + "|wwww"
_SINGLE = r"[a-z0-9@$\x{80}-\x{10FFFF}]"
_GAP = r"[^a-z0-9@$\x01\x{80}-\x{10FFFF}]{1,3}"
DISGUISED = Linear(
    rf"(?i){_UNUSUAL_PAIRS}|{_TRIPLES}"
    rf"|[^a-z0-9@$'\x01\x{{80}}-\x{{10FFFF}}]{_SINGLE}{_GAP}[a-z0-9@$!|]{_GAP}{_SINGLE}[^a-z0-9@$'\x{{80}}-\x{{10FFFF}}]"
    r"|[a-z](?:00|11|33|44|55|77|@@|\$\$)"
    r"|[a-z@$][*#%&^~_\-]+[a-z@$]|[a-z][!|+\x02-\x07]+[a-z]"
)


_MIXED = re.compile(r"[A-Za-z][^\W\x00-\x7f]|[^\W\x00-\x7f][A-Za-z]")


def has_mixed_words(original: str) -> bool:
    """Say whether a Latin letter stands beside one of another alphabet: only there is `и` a `u`."""
    return not original.isascii() and _MIXED.search(original) is not None


class Reading(Enum):
    """How the view was made in which a term was seen."""

    PLAIN = "plain"  # digits and signs divide words
    LEET = "leet"  # digits and signs are letters
    SPELLED = "spelled"  # single letters were put together


@dataclass(frozen=True, slots=True)
class Pattern:
    """A term as it is looked for; *owner* is the rule that lists it."""

    term: Term
    owner: int
    letters: str  # the term's skeleton without spaces
    words: int


class Sighting:
    """*words* of a view that stand at *span* of *folded* and look like a term.

    What is seen in a word does not depend on the term, and a word may be as long as the text: it is
    worked out once, whatever number of terms is looked for in it.
    """

    def __init__(self, words: Sequence[str], folded: str, span: tuple[int, int], mixed: bool, reading: Reading) -> None:
        """*mixed*: whether the message `has_mixed_words`."""
        self.span = span
        self._words = words
        self._folded = folded
        self._mixed = mixed
        self._reading = reading
        self._shown: dict[int, bool] = {}

    def shows(self, pattern: Pattern) -> bool:
        """Say whether this is the term and not innocent text that resembles it."""
        shown = self._shown.get(id(pattern))
        if shown is None:
            shown = self._shown[id(pattern)] = self._shows(pattern)
        return shown

    def _shows(self, pattern: Pattern) -> bool:
        start, end = self.span
        term, size = pattern.term, len(pattern.letters)
        spelled = self._reading is Reading.SPELLED
        if not spelled and len(self._words) > pattern.words and not self._broken_on_purpose(term.text):
            return False
        if self._reading is Reading.PLAIN and _inside_code(self._folded, start, end, size):
            return False
        if not _runs_fit(self._word, _runs(pattern.letters), term.open_start or spelled, term.open_end or spelled):
            return False
        if not self._enough_letters(term.text, size):
            return False
        if size <= 3 and not self._spelled_exactly(term.text.lower()):
            return False
        return not (term.name and _is_name(self._folded, start, end))

    @cached_property
    def _typed(self) -> str:
        return self._folded[slice(*self.span)].lower()

    @cached_property
    def _word(self) -> Runs:
        return _runs("".join(self._words))

    @cached_property
    def _pieces(self) -> list[str]:
        """What was typed without the signs between; nothing for codes and names of files."""
        typed = self._typed
        if any(map(str.isdigit, typed)) or _FILE_ENDING.search(typed, len(typed) - 4 if len(typed) > 4 else 0):
            return []
        return [piece for piece in _NO_PIECE.split(typed) if piece]

    @cached_property
    def _together(self) -> str:
        return squeeze("".join(self._pieces))

    @cached_property
    def _digits(self) -> int:
        """How many digits were typed, no more than two in a row of one digit."""
        return len(_END_OF_RUN.findall(self._typed)) + len(_SECOND_OF_RUN.findall(self._typed))

    @cached_property
    def _any_letter(self) -> bool:
        typed = self._typed
        return any(map(str.isalpha, typed)) or ("@" in typed and "$" in typed)

    @cached_property
    def _loose(self) -> frozenset[str]:
        """The letters that are Latin ones only in a message with words of Latin and other letters."""
        return frozenset() if self._typed.isascii() else frozenset(self._typed) & LOOSE.keys()

    @cached_property
    def _as_leet(self) -> str:
        return self._typed.translate(_LEET)

    def _broken_on_purpose(self, text: str) -> bool:
        """Say whether these are pieces of the term *text* and no words of their own: `fu cking`, not `who receives`."""
        if not self._pieces:
            return False
        text = text.lower()
        if not self._together.startswith(squeeze(text)):
            return "@" in self._typed or "$" in self._typed
        if self._together[len(squeeze(text)) :] not in _ENDINGS:
            return False
        pieces = list(self._pieces)
        if len(pieces) == len(self._words):
            pieces[-1] = pieces[-1][: max(1, len(text) - sum(map(len, pieces[:-1])))]
        return not all(piece in COMMON for piece in pieces)

    def _enough_letters(self, text: str, size: int) -> bool:
        """Say whether enough of the term was typed in letters: `A55` and `455` are model numbers."""
        if self._digits > (1 if size <= 3 else 2 if size <= 5 else size - 2) or not self._any_letter:
            return False
        return self._mixed or self._loose.issubset(text)

    def _spelled_exactly(self, text: str) -> bool:
        """Say whether no letter of a short term is replaced by another letter: `til` is not `tit`."""
        shown = self._as_leet
        return set(filter(str.isalpha, set(shown))) == set(filter(str.isalpha, text)) or text in shown


_NO_PIECE = re.compile(r"[^\w@$]+")
_FILE_ENDING = re.compile(r"[^\W_]{2}\.\w$")
_END_OF_RUN = re.compile(r"([0-9])(?!\1)")
_SECOND_OF_RUN = re.compile(r"([0-9])\1(?!\1)")
_LEET = str.maketrans(LEET_DIGITS | LEET_SIGNS)


def _inside_code(folded: str, start: int, end: int, size: int) -> bool:
    """Say whether the letters are cut out of something like `x4cum9`."""
    before = start > 0 and folded[start - 1].isdigit()
    after = end < len(folded) and folded[end].isdigit()
    return (before and after) or (size <= 3 and (before or after))


class Runs(NamedTuple):
    """A word as its letters without repeats, and where each letter's run ends in it."""

    letters: str
    ends: Sequence[int]

    def count(self, place: int) -> int:
        """Return how often the letter at *place* is repeated, itself included."""
        return self.ends[place] - (self.ends[place - 1] if place else 0)


def _runs(word: str) -> Runs:
    letters = squeeze(word)
    if len(letters) == len(word):
        return Runs(word, range(1, len(word) + 1))
    return Runs(letters, [*compress(range(1, len(word)), map(ne, word, word[1:])), len(word)])


def _runs_fit(have: Runs, want: Runs, open_start: bool, open_end: bool) -> bool:
    """Say whether a word *have* is the term *want* with letters repeated, never with fewer of them.

    A short term must be exact or drawn out to three: `as` is not `ass`, `cook` is not `cok`.
    """
    letters, size = want.letters, len(want.letters)
    if not open_end:
        first = len(have.letters) - size
        return (
            first >= 0
            and (open_start or not first)
            and have.letters.endswith(letters)
            and _counts_fit(have, want, first)
        )
    if not open_start:
        return have.letters.startswith(letters) and _counts_fit(have, want, 0)
    first = have.letters.find(letters)
    while first >= 0:
        if _counts_fit(have, want, first):
            return True
        first = have.letters.find(letters, first + 1)
    return False


def _counts_fit(have: Runs, want: Runs, first: int) -> bool:
    short = want.ends[-1] <= 3
    for place in range(len(want.letters)):
        fewest, here = want.count(place), have.count(first + place)
        if here < fewest or (short and fewest < here < 3):
            return False
    return True


def _is_name(folded: str, start: int, end: int) -> bool:
    """Say whether the word at *start* is written as a name: `Dick Smith`, `with Dick`, not `a Dick`."""
    word = folded[start:end]
    if not word.istitle():
        return False
    before = re.findall(r"[^\W\d_]+[.,!?]?", folded[max(0, start - 40) : start])
    after = re.match(r"['’]?s?[ -]+([^\W\d_]+)", folded[end : end + 40])
    if before and before[-1].lower() in _INSULTING:
        return False
    if after and after[1].istitle():
        return True
    return bool(before) and before[-1][-1] not in "!?" and not all(item[:1].isupper() for item in before[-3:])


# The whole run is read, with or without a letter behind its first sign: what failed is not tried again from within.
_CENSORED = re.compile(
    r"(?<![a-z0-9@$*#%&^~_])[a-z@$][a-z0-9@$]*+[*#%&^~_\-][0-9@$*#%&^~_\-]*+(?:([a-z])[a-z0-9@$*#%&^~_\-]*+)?"
)
_NO_LETTERS = "0123456789@$*#%&^~_-"
_VOWELS = frozenset("aeiouy")
# Signs that join words far oftener than they hide a letter: they hide vowels only.
_JOINING = frozenset("-_&")
_HIDING = frozenset("*#%^~") | _JOINING
MAX_CENSORED = 80
MAX_CENSORED_LETTERS = 40


class Wildcards:
    """Terms in which letters were replaced by signs: `f*ck`, `f**k`, `sh#t`."""

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        # By first letter and length; each once for its owner.
        self._whole: dict[tuple[str, int], dict[tuple[str, int], Pattern]] = defaultdict(dict)
        self._beginnings: dict[tuple[str, int], dict[tuple[str, int], Pattern]] = defaultdict(dict)
        for pattern in patterns:
            text = pattern.term.text.lower()
            if pattern.words == 1 and len(text) >= 4:
                table = self._beginnings if pattern.term.open_end else self._whole
                table[text[0], len(text)].setdefault((text, pattern.owner), pattern)
        self._longest = max((size for _, size in (*self._whole, *self._beginnings)), default=0)

    def find(self, folded: str) -> Iterator[tuple[int, int, Pattern]]:
        """Yield start, end and pattern of every censored term."""
        known: dict[str, list[Pattern]] = {}
        matches = (match for match in _CENSORED.finditer(folded.lower()) if match[1])
        for match in islice(matches, MAX_CENSORED):
            typed = match[0].rstrip(_NO_LETTERS)[:MAX_CENSORED_LETTERS]
            pieces = [(0, typed)]
            if "-" in typed or "_" in typed:
                pieces += [(piece.start(), piece[0]) for piece in _BETWEEN_JOINING.finditer(typed)]
            for at, piece in pieces:
                start = match.start() + at
                found = known.get(piece)
                if found is None:
                    found = known[piece] = list(self._matching(piece))
                for pattern in found:
                    yield start, start + len(piece), pattern

    def _matching(self, piece: str) -> Iterator[Pattern]:
        shown = piece.translate(_LEET)
        if _HIDING.isdisjoint(shown):
            return
        for size in range(4, min(len(shown), self._longest) + 1):
            tables = (self._whole, self._beginnings) if size == len(shown) else (self._beginnings,)
            for table in tables:
                for (text, _), pattern in table.get((shown[0], size), {}).items():
                    if (text[1] == shown[1] or shown[1] in _HIDING) and _hides(shown[:size], text):
                        yield pattern


_BETWEEN_JOINING = re.compile(r"[^\-_]+")


def _hides(shown: str, text: str) -> bool:
    hidden = 0
    for sign, letter in zip(shown, text, strict=True):
        if sign in _HIDING:
            hidden += 1
            if sign in _JOINING and letter not in _VOWELS:
                return False
        elif sign != letter:
            return False
    return 0 < hidden <= len(text) - 2
