"""Text as a reader sees it: folded to plain letters, with the way back to the original. Pure.

Folding works character by character through one table, so that it is linear whatever the text is:
`unicodedata.normalize` on a whole text sorts combining marks, in quadratic time for a tower of them.

- NFKD, marks and invisible characters (zero-width, bidirectional controls, tags, variation
  selectors, soft hyphens, lone surrogates) removed; case is kept
- characters drawn like a Latin letter become that letter; digits of any script become 0-9
- emoji and other symbols become a space
- what stands behind a right-to-left override is added once more, in the order in which it is shown
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from workers.moderation.confusables import CURRENCY, PAIRS, PUNCTUATION, STRICT

# A compatibility form of up to 18 characters exists (U+FDFA); no term is hidden in those.
MAX_EXPANSION = 4
# A text may become longer by so many characters. Of what expands after that, one letter or digit is kept:
# thousands of fractions or ligatures are no writing, and would be up to four times the work.
MAX_GROWTH = 500
# Most entries that the table may grow to; a text of other characters costs a look-up each after that.
MAX_TABLE = 80_000

# Nobody reads more than this backwards; it would double the work for every text.
MAX_REVERSED = 1_000

_INVISIBLE_CATEGORIES = frozenset({"Mn", "Me", "Cf", "Cs", "Co", "Cn"})
# Drawn as nothing although they are letters or spaces by category.
_BLANK = frozenset("\u115f\u1160\u3164\uffa0\u2800\u17b4\u17b5\u034f")
_KEPT_CONTROLS = frozenset("\t\n\r\x0b\x0c\x85")
_BACKWARDS = "\u202e"
_OVERRIDE = re.compile(f"{_BACKWARDS}([^\u202c\n]*)")
_ODD = re.compile(r"[^\t\n\r -~]")
_FEW = 8  # different characters are replaced one by one, which is quicker than to translate a text
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")


def _fold_letter(char: str) -> str:
    """Fold one character that is neither mark nor symbol, keeping its case."""
    lower = char.lower()
    if lower in PAIRS:
        return PAIRS[lower] if char == lower else PAIRS[lower].upper()
    plain = STRICT.get(char) or STRICT.get(lower)
    if plain is None:
        return char
    return plain if char == lower else plain.upper()


def _regional_or_boxed(code: int) -> str | None:
    """Return the letter of a regional indicator or a boxed capital, which NFKD leaves as they are."""
    for first in (0x1F1E6, 0x1F130, 0x1F150, 0x1F170):
        if first <= code < first + 26:
            return chr(ord("A") + code - first)
    return None


def _fold_char(char: str) -> str:
    """Return what *char* is folded to: nothing, or up to `MAX_EXPANSION` characters."""
    if char in _KEPT_CONTROLS:
        return " " if char in "\x0b\x0c\x85" else char
    if char < " " or char == "\x7f" or char in _BLANK:
        return ""
    if char < "\x7f":
        return char
    if char in PUNCTUATION:
        return PUNCTUATION[char]
    if char in CURRENCY:
        return CURRENCY[char]
    boxed = _regional_or_boxed(ord(char))
    if boxed is not None:
        return boxed
    category = unicodedata.category(char)
    if category in _INVISIBLE_CATEGORIES or category == "Cc":
        return ""
    direct = _fold_letter(char)
    if direct != char:
        return direct
    if category == "Lo" and 0x3040 <= ord(char) < 0xFF00:  # CJK, kana, Hangul: nothing to look like
        return char
    if category == "Nd":
        return str(unicodedata.decimal(char))
    return _fold_decomposed(char, category)


def _fold_decomposed(char: str, category: str) -> str:
    parts = [
        part for part in unicodedata.normalize("NFKD", char) if unicodedata.category(part) not in ("Mn", "Me", "Cf")
    ]
    if len(parts) > MAX_EXPANSION:
        return " "
    if parts != [char]:
        return "".join(PUNCTUATION.get(part) or _fold_letter(part) for part in parts)
    if category[0] in "SPZ":
        return " "
    return char


class _Table(dict[int, str]):
    """What each character folds to. Whatever is not in it when this module is loaded is a letter, or nothing."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        if not char.isalpha():
            return ""
        if len(self) < MAX_TABLE:
            self[code] = char
        return char


_TABLE = _Table()
# All but ideographs, Hangul and Yi, which are themselves, and what is private or not assigned.
for _block in (
    range(0x3400),
    range(0x4DC0, 0x4E00),
    range(0xA490, 0xAC00),
    range(0xF900, 0x10000),
    range(0x10000, 0x17000),
    range(0x18B00, 0x1FC00),
    range(0x2F800, 0x2FA20),
):
    for _code in _block:
        _TABLE[_code] = _fold_char(chr(_code))


class _Shortened(dict[str, str]):
    """What is kept of each folded character in a text that grows too long: one letter or digit, or a sign."""

    def __missing__(self, piece: str) -> str:
        kept = self[piece] = next(filter(str.isalnum, piece), piece[:1])
        return kept


_SHORTENED = _Shortened()
_MORE = tuple(max(0, size - 1) for size in range(MAX_EXPANSION + 1))  # characters than the one that was typed


def _pieces(text: str) -> list[str]:
    """Return what each character of *text* folds to where it stands."""
    pieces = list(map(_TABLE.__getitem__, map(ord, text)))
    sizes = list(map(len, pieces))
    if sum(sizes) > len(text) + MAX_GROWTH:
        # As far as the text may grow, that is; without a loop over thousands of characters.
        grown = bisect_left(list(accumulate(map(_MORE.__getitem__, sizes))), MAX_GROWTH) + 1
        pieces[grown:] = map(_SHORTENED.__getitem__, pieces[grown:])
    return pieces


def is_plain(text: str) -> bool:
    """Say whether folding would leave *text* as it is."""
    return text.isascii() and (text.isprintable() or _CONTROLS.search(text) is None)


def fold_all(texts: list[str]) -> tuple[list[str], dict[int, Origin]]:
    """Return `fold` of each of *texts*, and the origins that were needed for some of them.

    *texts* itself when folding leaves all as they are.
    """
    joined = "".join(texts)
    origins: dict[int, Origin] = {}
    if joined.isascii() and (joined.isprintable() or _CONTROLS.search(joined) is None):
        return texts, origins
    folded = list(texts)
    for place, text in enumerate(texts):
        if text.isascii() and text.isprintable():
            continue
        quickly = _fold_quickly(text)
        if quickly is None:
            origins[place] = origin = Origin(text)
            quickly = origin.folded
        folded[place] = quickly
    return folded, origins


def fold(text: str) -> str:
    """Return *text* as a reader sees it. Case is kept; length is not."""
    quickly = _fold_quickly(text)
    return Origin(text).folded if quickly is None else quickly


def _fold_quickly(text: str) -> str | None:
    """Return *text* folded unless it grows too long or is read backwards somewhere.

    Not of a long text either: most of those that anybody makes need an `Origin` afterwards.
    """
    if is_plain(text):
        return text
    if len(text) > MAX_GROWTH or _BACKWARDS in text:
        return None
    folds = {char: _TABLE[ord(char)] for char in set(_ODD.findall(text))}
    # Nothing that is put in may be replaced itself by one of the others.
    if len(folds) <= _FEW and _ODD.search("".join(folds.values())) is None:
        folded = text
        for char, other in folds.items():
            folded = folded.replace(char, other)
    else:
        folded = text.translate(_TABLE)
    return folded if len(folded) <= len(text) + MAX_GROWTH else None


def _read(text: str) -> tuple[list[str], Sequence[int]]:
    """Return what characters fold to, in the order in which they are read, and where each stands in *text*."""
    pieces = _pieces(text)
    if _BACKWARDS not in text:
        return pieces, range(len(text))
    places = list(range(len(text)))
    for start, end in _overridden(text):
        backwards = range(end - 1, start - 1, -1)
        pieces += [" ", *(pieces[place] for place in backwards)]
        places += [start, *backwards]
    return pieces, places


def _overridden(text: str) -> Iterator[tuple[int, int]]:
    """Yield which characters are shown from right to left, up to `MAX_REVERSED` of them."""
    left = MAX_REVERSED
    for match in _OVERRIDE.finditer(text):
        start, end = match.span(1)
        if left <= 0:
            return
        yield start, min(end, start + left)
        left -= end - start


class Origin:
    """A folded text, and where each of its characters came from."""

    __slots__ = ("_ends", "_places", "_text", "folded")

    def __init__(self, text: str) -> None:
        self._text = self.folded = text
        self._ends: list[int] = []  # where what each character folds to ends in the folded text
        self._places: Sequence[int] = ()
        if not is_plain(text):
            pieces, self._places = _read(text)
            self.folded = "".join(pieces)
            self._ends = list(accumulate(map(len, pieces)))

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return the span of the original that became the folded characters from *start* to *end*.

        Marks and invisible characters behind the last character belong to it.
        """
        if not self._places:
            return start, end
        text, ends, places = self._text, self._ends, self._places
        first, last = bisect_right(ends, start), bisect_right(ends, end - 1)
        if last < len(text):
            low, high = places[first], places[last] + 1
        else:  # some of it was read backwards
            shown = [places[at] for at in range(first, last + 1) if not at or ends[at] > ends[at - 1]]
            low, high = min(shown), max(shown) + 1
        while high < len(text) and _TABLE[ord(text[high])] == "":
            high += 1
        return low, high
