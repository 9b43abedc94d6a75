"""Find phone numbers in folded text. Pure apart from the number plans that `phonenumbers` loads.

`phonenumbers.PhoneNumberMatcher` tries every stretch of digits and is too slow for a text made of
digits; here candidates are cut out first, and the library only says which of them are numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

import phonenumbers

from workers.moderation.wordsets import words

Place = tuple[int, int]

# What is left of a message after so many candidates is masked by shape alone: bounded work, and a
# list of numbers does not get through by being long.
MAX_CHECKS = 60
_DIGITS = range(7, 16)
# `030 123456`: shorter national numbers cannot be told from other numbers.
_FEWEST_NATIONAL = 9

_RUN = re.compile(
    r"(?<![A-Za-z0-9/#`_])(?<![A-Za-z0-9][.-])[+(]{0,2}[0-9](?:[ .\-/()]{0,3}[0-9])+(?![A-Za-z0-9]|[._-][A-Za-z])"
)
_GROUP = re.compile(r"[0-9]+")
# Dates, times, addresses of the Internet, ZIP+4: digits that are no phone number however they are grouped.
_OTHER = re.compile(
    r"(?<![0-9])(?:[0-9]{4}[-/.][0-9]{1,2}[-/.][0-9]{1,2}|[0-9]{1,2}[-/.][0-9]{1,2}[-/.](?:19|20)[0-9]{2})(?![0-9])"
    r"|(?<![0-9.+])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9.])"
    r"|(?<![0-9+-])(?<![0-9] )[0-9]{5}-[0-9]{4}(?![0-9-])"
    r"|(?<![0-9])[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?(?![0-9])"
)
# Words that say what a number is, when it is not a phone number.
_REFERENCE = re.compile(
    r"(?:order|ref|reference|tracking|track|invoice|case|ticket|id|serial|sku|account|acct|part|model|barcode|isbn"
    r"|booking|confirmation|policy|imei|upc|ean|asin|version|build|parcel|shipment|transaction|txn|receipt|customer"
    r"|member|membership|licen[cs]e|registration|vat|claim|coupon|voucher|code|item|product|po|rma|awb|batch|lot"
    r"|session|build|release|balance|total|amount|paid|price|cost|usd|eur|gbp|[$#\x02-\x07])s?"
    r"(?:[ .:#'\"()=-]|\b(?:no|nr|num|number|code|id|is|was|nos|of|my|the|for)\b){0,8}$"
)


_NANP = frozenset({"US", "CA", "PR", "DO", "JM", "BS", "TT"})
_NANP_SHAPES = ((3, 3, 4), (10,), (1, 3, 3, 4), (11,), (3, 7), (6, 4), (1, 3, 7), (3, 3, 2, 2))
# Regions in which a national number is written with a 0 before it; without one it is not one.
_WITH_TRUNK = words("GB DE FR NL BE AT CH SE FI IE AU NZ JP KR ZA IN TR UA RO BG HR RS SI SK ID MY TH IL EG")
_NANP_FIRST = frozenset(shape[0] for shape in _NANP_SHAPES) | frozenset(range(16, 32))  # 16 on: spelled out
_PLUS = frozenset({"+", "("})
_MOST_GROUPS = 8
# Five or more single digits in a row are one number that was spelled out.
_GROUP_OR_SPELLED = re.compile(r"(?<![0-9])[0-9](?:[ .\-/()]{1,3}[0-9](?![0-9])){4,}|[0-9]+")


def load_plans() -> None:
    """Read all number plans now rather than in the middle of a batch."""
    phonenumbers.PhoneMetadata.load_all()


@lru_cache(maxsize=4_096)
def _valid(number: str, region: str | None) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(number, region))
    except phonenumbers.NumberParseException:
        return False


def find_phones(text: str, regions: tuple[str, ...]) -> Iterator[Place]:
    """Yield where phone numbers stand: international ones, and national ones of *regions*."""
    blanked = _OTHER.sub(lambda match: ":" * len(match[0]), text)
    checks = 0
    for run in _RUN.finditer(blanked):
        if run.end() - run.start() < _DIGITS[0]:
            continue
        groups = _groups(blanked, *run.span())
        first = 0
        while first < len(groups):
            last = 0
            for end, number, region in _readings(blanked, groups, first, regions):
                checks += 1
                if checks > MAX_CHECKS or _valid(number, region):
                    last = end
                    break
            if last:
                yield _with_prefix(blanked, groups[first][0], run.start()), groups[last - 1][1]
            first = last or first + 1


def _groups(text: str, start: int, end: int) -> list[Place]:
    """Return where groups of digits stand between *start* and *end*; digits spelled out are one group."""
    return [group.span() for group in _GROUP_OR_SPELLED.finditer(text, start, end)]


def _with_prefix(text: str, start: int, floor: int) -> int:
    while start > floor and text[start - 1] in "+(":
        start -= 1
    return start


def _digits(text: str, groups: list[Place], first: int, last: int) -> str:
    return "".join(_GROUP.findall(text[groups[first][0] : groups[last - 1][1]]))


def _readings(
    text: str, groups: list[Place], first: int, regions: tuple[str, ...]
) -> Iterator[tuple[int, str, str | None]]:
    """Yield the ways in which groups from *first* on may be a phone number, before any is looked up.

    Each is one past its last group, its digits, and the region whose number it would be.
    """
    start, end = groups[first]
    head = text[start : start + 2]
    if (
        head[0] != "0"
        and text[start - 1 : start] not in _PLUS
        and end - start not in _NANP_FIRST
        and not _any_start(regions)
    ):
        return
    if text[max(0, start - 2) : start].rstrip("(").endswith("+"):
        yield from ((last, "+" + digits, None) for last, digits in _stretches(text, groups, first))
        return
    if end - start >= _DIGITS[0] and not _alone(text, groups, first):
        return
    if _REFERENCE.search(text[max(0, start - 40) : start].lower()):
        return
    if head == "00":
        yield from ((last, "+" + digits[2:], None) for last, digits in _stretches(text, groups, first))
    for region in regions:
        if region in _NANP:
            yield from _nanp(text, groups, first, region)
        elif head[0] == "0" or (region not in _WITH_TRUNK and groups[first : first + 2] != groups[first : first + 1]):
            for last, digits in _stretches(text, groups, first):
                if len(digits) >= _FEWEST_NATIONAL and _stands_alone(text, groups, first, last):
                    yield last, digits, region


# Before digits that nothing divides, these say that they are data, unless a phone is named as well.
_DATA = re.compile(r"[=:*<>\[{|][ ]?$")
_PHONE = re.compile(r"phone|tel|mobile|cell|call|text|fax|whatsapp|contact|ring|reach|number|handy|movil", re.I)


# `1Z 999 AA1 01 2345`: a code that goes on.
_CODE_BEFORE = re.compile(r"[A-Za-z][0-9]+[ -]$")
_EXAMPLES = frozenset({"0123456789", "1234567890", "9876543210"})


def _alone(text: str, groups: list[Place], first: int) -> bool:
    """Say whether one long group may be a phone number: not a fraction, a column of numbers, or data."""
    if len({end - start for start, end in groups}) > 1 and groups[first][1] - groups[first][0] < 16:
        return False
    if text[slice(*groups[first])] in _EXAMPLES:
        return False
    before = text[max(0, groups[first][0] - 30) : groups[first][0]]
    return _DATA.search(before) is None or _PHONE.search(before) is not None


def _stands_alone(text: str, groups: list[Place], first: int, last: int) -> bool:
    """Say whether groups that look like a number are no piece of a longer one, as in `4111 0111 2222 3333`."""
    start = groups[first][0]
    if groups[first][1] - start == 1 or _CODE_BEFORE.search(text, max(0, start - 20), start):
        return False
    if first and text[groups[first - 1][1] : groups[first][0]].strip() != "/":
        return False
    return last == len(groups) or text[groups[last][0]] == "0" or "(" in text[groups[last - 1][1] : groups[last][0]]


@lru_cache(maxsize=64)
def _any_start(regions: tuple[str, ...]) -> bool:
    """Say whether a number of *regions* may begin with any digit."""
    return any(region not in _NANP and region not in _WITH_TRUNK for region in regions)


def _stretches(text: str, groups: list[Place], first: int) -> Iterator[tuple[int, str]]:
    """Yield, longest first, how far a number of acceptable length may reach, and its digits."""
    ends: list[tuple[int, str]] = []
    for last in range(first + 1, min(first + _MOST_GROUPS, len(groups)) + 1):
        digits = _digits(text, groups, first, last)
        if len(digits) > _DIGITS[-1]:
            break
        if len(digits) in _DIGITS:
            ends.append((last, digits))
    return reversed(ends)


def _nanp(text: str, groups: list[Place], first: int, region: str) -> Iterator[tuple[int, str, str | None]]:
    """Yield the North American number at *first*: area and exchange never begin with 0 or 1."""
    places = groups[first : first + 4]
    sizes = tuple(end - start for start, end in places)
    for shape in _NANP_SHAPES:
        if sizes[: len(shape)] != shape and not (shape == (10,) and sizes[0] > 15):
            continue
        digits = _digits(text, groups, first, first + len(shape))
        ten = digits[1:] if len(digits) == 11 and digits[0] == "1" else digits
        if len(ten) == 10 and ten[0] in "23456789" and ten[3] in "23456789":
            yield first + len(shape), digits, region
            return
