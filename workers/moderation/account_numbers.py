"""Find card numbers, IBANs and national ids in folded text. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import groupby

from workers.moderation.checksums import (
    IBAN_LENGTHS,
    aadhaar,
    brazilian_cpf,
    card_length_fits,
    french_nir,
    iban,
    italian_code,
    luhn,
    spanish_id,
    us_ssn,
)
from workers.moderation.linear import Linear

Place = tuple[int, int]

# Digits with the separators people put between them; digits and separators have no character in
# common, so that the search is linear.
_RUN = re.compile(r"[0-9](?:[ \t\n.\-_/]{0,2}[0-9])+")
_GROUP = re.compile(r"[0-9]+")
_CARD_SHAPES = frozenset({(4, 4, 4, 4), (4, 4, 4, 4, 3), (4, 6, 5), (4, 6, 4), (8, 8), (4, 4, 8), (6, 13), (4, 5, 6)})
_CARD_DIGITS = range(14, 20)
# A message with more numbers that look like a card, or an IBAN, than this is a pile of numbers: what is
# left is masked unchecked, so that work stays bounded and nothing slips through.
MAX_CARD_CHECKS = 300
MAX_IBAN_CHECKS = 100


def find_cards(text: str) -> Iterator[Place]:
    """Yield where card numbers stand: scheme, length and Luhn digit are right."""
    checks = 0
    for run in _RUN.finditer(text):
        if run.end() - run.start() < _CARD_DIGITS[0] or _touches_letter(text, *run.span()):
            continue
        groups = [group.span() for group in _GROUP.finditer(text, *run.span())]
        next_group = 0
        for first, last in _windows(groups):
            if first < next_group:
                continue
            start, end = groups[first][0], groups[last - 1][1]
            digits = "".join(_GROUP.findall(text[start:end]))
            checks += 1
            if checks > MAX_CARD_CHECKS:
                yield start, len(text)
                return
            if _is_fraction(text, start, end, last - first):
                continue
            if card_length_fits(digits) and luhn(digits) and len(set(digits)) > 1:
                yield start, end
                next_group = last


def _windows(groups: list[Place]) -> Iterator[Place]:
    """Yield stretches of groups that are written as a card number is."""
    sizes = [end - start for start, end in groups]
    if sum(sizes) in _CARD_DIGITS:
        yield 0, len(sizes)
    at = 0
    for single, group in groupby(sizes, key=lambda size: size == 1):
        count = len(list(group))
        if single and count in _CARD_DIGITS:
            yield at, at + count
        at += count
    for first, size in enumerate(sizes):
        if size in _CARD_DIGITS:
            yield first, first + 1
        elif size in (4, 6, 8):
            for count in _card_groups(tuple(sizes[first : first + 5])):
                yield first, first + count


@lru_cache(maxsize=4_096)
def _card_groups(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return of how many groups a card number may be, where groups have these *sizes*."""
    return tuple(count for count in (5, 4, 3, 2) if count <= len(sizes) and sizes[:count] in _CARD_SHAPES)


def _is_fraction(text: str, start: int, end: int, groups: int) -> bool:
    """Say whether the digits are a decimal number, or what stands behind its point."""
    if groups == 1:
        return text[start - 1 : start] in (".", ",") and text[start - 2 : start - 1].isdigit()
    return groups == 2 and "." in text[start:end]


def _touches_letter(text: str, start: int, end: int) -> bool:
    return (start > 0 and text[start - 1].isalnum()) or (end < len(text) and text[end].isalnum())


_IBAN_START = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[ ]?[0-9]{2}(?=[ .\-]?[A-Za-z0-9])")
_IBAN_REST = re.compile(r"(?:[ .\-]{0,2}[A-Za-z0-9]){15,34}")
_NO_SEPARATORS = str.maketrans("", "", " .-")


def find_ibans(text: str) -> Iterator[Place]:
    """Yield where IBANs stand: country, length and check digits are right."""
    done = checks = 0
    for match in _IBAN_START.finditer(text):
        length = IBAN_LENGTHS.get(match[0][:2].upper())
        if length is None or match.start() < done:
            continue
        rest = _IBAN_REST.match(text, match.start())
        if rest is None:
            continue
        compact = rest[0].translate(_NO_SEPARATORS)[:length]
        checks += 1
        if checks > MAX_IBAN_CHECKS:
            yield match.start(), len(text)
            return
        if len(compact) < length or not iban(compact):
            continue
        end = _end_of(text, match.start(), length)
        if not text[end : end + 1].isalnum():
            done = end
            yield match.start(), end


def _end_of(text: str, start: int, characters: int) -> int:
    """Return where *characters* letters or digits after *start* end."""
    at = start
    while characters:
        characters -= text[at].isalnum()
        at += 1
    return at


def _no_check(_compact: str) -> bool:
    return True


_E = r"(?![A-Za-z0-9])"
# `re` skips to the first character quickly: what may not stand before most of them is asked behind it.
_S = r"(?<![A-Za-z0-9])"
_IDS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("us_ssn", re.compile(r"[0-9](?<![A-Za-z0-9-][0-9])[0-9]{2}([- ])[0-9]{2}\1[0-9]{4}(?!-)" + _E), us_ssn),
    (
        "uk_nino",
        re.compile(
            _S + r"(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?: ?[0-9]{2}){3} ?[A-D]" + _E, re.I
        ),
        _no_check,
    ),
    (
        "es_dni",
        re.compile(
            r"[0-9XYZ](?<![A-Za-z0-9][0-9XYZ])(?:(?<=[0-9])|(?<=[XYZ])[- ]?)[0-9]{7}[- ]?[A-HJ-NP-TV-Z]" + _E, re.I
        ),
        spanish_id,
    ),
    (
        "fr_nir",
        re.compile(r"[12](?<![A-Za-z0-9][12]) ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}" + _E),
        french_nir,
    ),
    (
        "it_cf",
        re.compile(r"[A-Z](?<![A-Za-z0-9][A-Z])[A-Z]{5}[0-9]{2}[A-EHLMPRST][0-9]{2}[A-Z][0-9]{3}[A-Z]" + _E, re.I),
        italian_code,
    ),
    ("br_cpf", re.compile(r"[0-9](?<![A-Za-z0-9][0-9])[0-9]{2}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}" + _E), brazilian_cpf),
    (
        "in_aadhaar",
        re.compile(r"[2-9](?<![A-Za-z0-9][2-9])(?<![0-9] [2-9])[0-9]{3}([ -])[0-9]{4}\1[0-9]{4}(?! ?[0-9])" + _E),
        aadhaar,
    ),
)
# One in ten numbers of twelve digits has a right check digit: this one is believed behind its name only.
_AADHAAR = re.compile(r"aadh?aa?r|uidai", re.I)
NATIONAL_IDS = tuple(name for name, _, _ in _IDS)
# For re2, which takes a fraction of the time: where one of these finds nothing, neither does the expression above.
_PERHAPS = {
    "us_ssn": Linear(r"[0-9]{3}[- ][0-9]{2}[- ][0-9]{4}"),
    "uk_nino": Linear(r"[A-Za-z]{2}(?: ?[0-9]{2}){3} ?[A-Da-d]"),
    "es_dni": Linear(r"[0-9]{7}[- ]?[A-Za-z]"),
    "fr_nir": Linear(r"[12] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}"),
    "it_cf": Linear(r"[A-Za-z]{6}[0-9]{2}[A-Za-z][0-9]{2}[A-Za-z][0-9]{3}[A-Za-z]"),
    "br_cpf": Linear(r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}"),
    "in_aadhaar": Linear(r"[2-9][0-9]{3}[ -][0-9]{4}[ -][0-9]{4}"),
}
_CUED_SSN = re.compile(r"\b(?:ssn|social security)[^0-9\n]{0,25}([0-9]{9})" + _E, re.I)


def find_national_ids(text: str, kinds: frozenset[str]) -> Iterator[Place]:
    """Yield where ids of the *kinds* stand; those with a check digit have the right one."""
    encoded = text.encode()
    for name, pattern, check in _IDS:
        if name not in kinds or _PERHAPS[name].first(encoded) < 0:
            continue
        for match in pattern.finditer(text):
            if name == "in_aadhaar" and not _AADHAAR.search(text, max(0, match.start() - 40), match.start()):
                continue
            if check(match[0].translate(_NO_SEPARATORS)):
                yield match.span()
    if "us_ssn" in kinds:
        for match in _CUED_SSN.finditer(text):
            if us_ssn(match[1]):
                yield match.span(1)
