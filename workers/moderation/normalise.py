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
from collections.abc import Iterator

from workers.moderation.confusables import CURRENCY, PAIRS, PUNCTUATION, STRICT

# A compatibility form of up to 18 characters exists (U+FDFA); no term is hidden in those.
MAX_EXPANSION = 4
# Most entries that the table may grow to; a text of rare characters costs a look-up each after that.
MAX_TABLE = 40_000

# Nobody reads more than this backwards; it would double the work for every text.
MAX_REVERSED = 1_000

_INVISIBLE_CATEGORIES = frozenset({"Mn", "Me", "Cf", "Cs", "Co", "Cn"})
# Drawn as nothing although they are letters or spaces by category.
_BLANK = frozenset("\u115f\u1160\u3164\uffa0\u2800\u17b4\u17b5\u034f")
_KEPT_CONTROLS = frozenset("\t\n\r\x0b\x0c\x85")
_OVERRIDE = re.compile("\u202e([^\u202c\n]*)")
_PLAIN_OR_NOT = re.compile(r"([\t\n\r -~]+)|[^\t\n\r -~]+")
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
    """What each character folds to, found out when it is first met."""

    def __missing__(self, code: int) -> str:
        folded = _fold_char(chr(code))
        if len(self) < MAX_TABLE:
            self[code] = folded
        return folded


_TABLE = _Table()
for _block in (
    range(0x20),
    range(0x7F, 0x2FFF),
    range(0xFB00, 0x10000),
    range(0x1D400, 0x1D800),
    range(0x1F000, 0x1FB00),
):
    for _code in _block:
        _TABLE[_code] = _fold_char(chr(_code))


def is_plain(text: str) -> bool:
    """Say whether folding would leave *text* as it is."""
    return text.isascii() and (text.isprintable() or _CONTROLS.search(text) is None)


def fold_all(texts: list[str]) -> list[str]:
    """Return `fold` of each of *texts*; *texts* itself when that leaves all as they are."""
    joined = "".join(texts)
    if joined.isascii() and (joined.isprintable() or _CONTROLS.search(joined) is None):
        return texts
    return [text if text.isascii() and text.isprintable() else fold(text) for text in texts]


def fold(text: str) -> str:
    """Return *text* as a reader sees it. Case is kept; length is not."""
    if is_plain(text):
        return text
    folded = text.translate(_TABLE)
    for start, end in _overridden(text):
        folded += " " + text[start:end][::-1].translate(_TABLE)
    return folded


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
    """Where each character of a folded text came from."""

    __slots__ = ("_starts", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._starts = None if is_plain(text) else _starts_of(text)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return the span of the original that became the folded characters from *start* to *end*.

        Marks and invisible characters behind the last character belong to it.
        """
        if self._starts is None:
            return start, end
        origins = self._starts[start:end]
        first, last = min(origins), max(origins) + 1
        text = self._text
        while last < len(text) and _TABLE[ord(text[last])] == "":
            last += 1
        return first, last


def _starts_of(text: str) -> list[int]:
    starts: list[int] = []
    for run in _PLAIN_OR_NOT.finditer(text):
        if run[1]:  # these fold to themselves
            starts.extend(range(*run.span()))
            continue
        for index, char in enumerate(run[0], run.start()):
            width = len(_TABLE[ord(char)])
            if width == 1:
                starts.append(index)
            elif width:
                starts.extend([index] * width)
    for start, end in _overridden(text):
        starts.append(start)  # the space that `fold` puts before it
        for index in range(end - 1, start - 1, -1):
            starts.extend([index] * len(_TABLE[ord(text[index])]))
    return starts
