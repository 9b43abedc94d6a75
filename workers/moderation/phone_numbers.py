"""Find phone numbers in folded text. Pure apart from the number plans that `phonenumbers` loads.

`phonenumbers.PhoneNumberMatcher` tries every stretch of digits and is too slow for a text made of
digits; here candidates are cut out first, and the library only says which of them are numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache, cached_property, lru_cache
from typing import NamedTuple

import phonenumbers

from workers.moderation.linear import Linear
from workers.moderation.wordsets import words

Place = tuple[int, int]

# What is left of a message after so many candidates is masked unchecked, as after too many cards: to look one up takes
# up to 50 us, and a list of numbers does not get through by being long.
MAX_CHECKS = 40
_DIGITS = range(7, 16)
# `030 123456`: shorter national numbers cannot be told from other numbers.
_FEWEST_NATIONAL = 9

_RUN = re.compile(
    r"(?<![A-Za-z0-9/#`_])(?<![A-Za-z0-9][.-])[+(]{0,2}[0-9](?:[ .\-/()]{0,3}[0-9])+(?![A-Za-z0-9]|[._-][A-Za-z])"
)
_GROUP = re.compile(r"[0-9]+")
# Dates, times, addresses of the Internet, ZIP+4: digits that are no phone number however they are grouped.
# `re` skips to the first digit quickly, which is why what may not stand before it is asked behind it.
_OTHER = re.compile(
    r"[0-9](?<![0-9]{2})(?:"
    r"(?:[0-9]{3}[-/.][0-9]{1,2}[-/.][0-9]{1,2}|[0-9]?[-/.][0-9]{1,2}[-/.](?:19|20)[0-9]{2})(?![0-9])"
    r"|(?<![.+][0-9])[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?![0-9.])"
    r"|(?<![+-][0-9])(?<![0-9] [0-9])[0-9]{4}-[0-9]{4}(?![0-9-])"
    r"|[0-9]?:[0-9]{2}(?::[0-9]{2})?(?![0-9]))"
)
# Words that say what a number is, when it is not a phone number.
_REFERENCE = Linear(
    r"(?:order|ref|reference|tracking|track|invoice|case|ticket|id|serial|sku|account|acct|part|model|barcode|isbn"
    r"|booking|confirmation|policy|imei|upc|ean|asin|version|build|parcel|shipment|transaction|txn|receipt|customer"
    r"|member|membership|licen[cs]e|registration|vat|claim|coupon|voucher|code|item|product|po|rma|awb|batch|lot"
    r"|session|build|release|balance|total|amount|paid|price|cost|usd|eur|gbp|[$#\x02-\x07])s?"
    r"(?:[ .:#'\"()=-]|\b(?:no|nr|num|number|code|id|is|was|nos|of|my|the|for)\b){0,8}\n?$"
)


_NANP = frozenset({"US", "CA", "PR", "DO", "JM", "BS", "TT"})
_NANP_SHAPES = ((3, 3, 4), (10,), (1, 3, 3, 4), (11,), (3, 7), (6, 4), (1, 3, 7), (3, 3, 2, 2))
# Regions in which a national number is written with a 0 before it; without one it is not one.
_WITH_TRUNK = words("GB DE FR NL BE AT CH SE FI IE AU NZ JP KR ZA IN TR UA RO BG HR RS SI SK ID MY TH IL EG")
_NANP_BEGINNING = frozenset(shape[0] for shape in _NANP_SHAPES) | frozenset(range(16, 32))  # 16 on: spelled out
_MOST_GROUPS = 8
# Five or more single digits in a row are one number that was spelled out.
_GROUP_OR_SPELLED = re.compile(r"[0-9](?:(?<![0-9]{2})(?:[ .\-/()]{1,3}[0-9](?![0-9])){4,}|[0-9]*)")
_SHORTEST_SPELLED = 9  # characters


@lru_cache(maxsize=4_096)
def _nanp_groups(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return of how many groups a North American number may be, where groups have these *sizes*.

    More than 15 digits are ones that were spelled out, the first ten of which may be it.
    """
    return tuple(
        len(shape)
        for shape in _NANP_SHAPES
        if sizes[: len(shape)] == shape or (shape == (10,) and sizes[0] > _DIGITS[-1])
    )


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
    plans = _plans(regions)
    checks = 0
    for match in _RUN.finditer(blanked):
        if match.end() - match.start() < _DIGITS[0]:
            continue
        run = _Run(blanked, match.span(), plans)
        # Of thousands of groups, such as fractions and dates, few may begin a number: only those are looked at.
        for first in run.beginnings():
            if not run.may_begin(first):
                continue
            run.first = first
            for end, number, region in run.readings():
                checks += 1
                if checks > MAX_CHECKS:
                    yield run.place(end)[0], len(text)
                    return
                if _valid(number, region):
                    yield run.place(end)
                    run.after = end
                    break


class _Plans(NamedTuple):
    """The regions whose national numbers are looked for."""

    nanp: tuple[str, ...]
    others: tuple[str, ...]
    without_trunk: bool  # in some of them a number does not begin with 0


@cache
def _plans(regions: tuple[str, ...]) -> _Plans:
    others = tuple(region for region in regions if region not in _NANP)
    without_trunk = any(region not in _WITH_TRUNK for region in others)
    return _Plans(tuple(region for region in regions if region in _NANP), others, without_trunk)


# Before digits that nothing divides, these say that they are data, unless a phone is named as well.
_DATA = re.compile(r"[=:*<>\[{|][ ]?$")
_PHONE = re.compile(r"phone|tel|mobile|cell|call|text|fax|whatsapp|contact|ring|reach|number|handy|movil", re.I)
# `1Z 999 AA1 01 2345`: a code that goes on.
_CODE_BEFORE = re.compile(r"[A-Za-z][0-9]+[ -]$")
_EXAMPLES = frozenset({"0123456789", "1234567890", "9876543210"})

# One past the last group, the digits, and the region whose number they would be.
Reading = tuple[int, str, str | None]


class _Run:
    """Groups of digits with nothing but the signs of a phone number between them.

    `first` is the group at which a number is looked for, `after` the one behind the last number found.
    """

    def __init__(self, text: str, span: Place, plans: _Plans) -> None:
        self.text = text
        self.groups = [group.span() for group in _GROUP_OR_SPELLED.finditer(text, *span)]
        self.first = self.after = 0
        self._floor = span[0]
        self._sizes = tuple([end - start for start, end in self.groups])
        self._plans = plans
        self._plus = "+" in text[max(0, span[0] - 2) : span[1]]

    def place(self, last: int) -> Place:
        """Return where the number from `first` to before *last* stands, with the signs before it."""
        start = self.groups[self.first][0]
        while start > self._floor and self.text[start - 1] in "+(":
            start -= 1
        return start, self.groups[last - 1][1]

    def beginnings(self) -> list[int]:
        """Return, cheaply, the groups for which there may be `readings`."""
        groups, sizes, plans = self.groups, self._sizes, self._plans
        if self._plus:
            return list(range(len(groups)))
        found: list[int] = []
        starts = [self.text[start] for start, _ in groups]
        if plans.without_trunk:
            found = [first for first, size in enumerate(sizes) if size > 1]
        elif "0" in starts:
            found = [first for first, digit in enumerate(starts) if digit == "0" and sizes[first] > 1]
        if plans.nanp and not _NANP_BEGINNING.isdisjoint(sizes):
            found += [
                first
                for first, size in enumerate(sizes)
                if size in _NANP_BEGINNING and _nanp_groups(sizes[first : first + 4])
            ]
        return sorted(set(found))

    def may_begin(self, first: int) -> bool:
        """Say whether *first*, one of the `beginnings`, is behind the last number and no piece of a longer one."""
        if first < self.after:
            return False
        return self._plus or first == self.after or self._begins_nanp(first) or self._gap(first) == "/"

    def _begins_nanp(self, first: int) -> bool:
        return bool(self._plans.nanp and _nanp_groups(self._sizes[first : first + 4]))

    def _behind_plus(self, start: int) -> bool:
        return self.text[max(0, start - 2) : start].rstrip("(").endswith("+")

    def readings(self) -> Iterator[Reading]:
        """Yield the ways in which groups from `first` on may be a phone number, before any is looked up."""
        start = self.groups[self.first][0]
        if self._plus and self._behind_plus(start):
            yield from ((last, "+" + digits, None) for last, digits in self._stretches())
            return
        found = [*self._national(), *self._nanp()]
        # Dear, and only asked when there is something to lose.
        if found and self._believed(start):
            yield from found

    def _national(self) -> Iterator[Reading]:
        """Yield numbers that begin with 0, and in some regions others, if they are no piece of a longer number.

        `0123 4567` is one of `4111 0123 4567 8901`.
        """
        start, end = self.groups[self.first]
        zero = self.text[start] == "0"
        if end - start == 1 or (self.first != self.after and self._gap(self.first) != "/"):
            return
        if not zero and not self._plans.without_trunk:
            return
        for last, digits in self._stretches():
            if digits.startswith("00"):
                yield last, "+" + digits[2:], None
            if len(digits) < _FEWEST_NATIONAL or not (
                last == len(self.groups) or self.text[self.groups[last][0]] == "0" or "(" in self._gap(last)
            ):
                continue
            for region in self._plans.others:
                if zero or (region not in _WITH_TRUNK and last > self.first + 1):
                    yield last, digits, region

    def _nanp(self) -> Iterator[Reading]:
        """Yield the North American number at `first`: area and exchange never begin with 0 or 1."""
        if not self._plans.nanp:
            return
        for groups in _nanp_groups(self._sizes[self.first : self.first + 4]):
            last = self.first + groups
            digits = self._digits(last)
            ten = digits[1:] if len(digits) == 11 and digits[0] == "1" else digits
            if len(ten) == 10 and ten[0] in "23456789" and ten[3] in "23456789":
                yield from ((last, digits, region) for region in self._plans.nanp)
                return

    def _believed(self, start: int) -> bool:
        """Say whether what stands before the digits allows a phone number: no order number, code or data."""
        before = self.text[max(0, start - 40) : start]
        if _REFERENCE.first(before.lower().encode()) >= 0 or _CODE_BEFORE.search(before):
            return False
        size = self._sizes[self.first]
        if size < _DIGITS[0]:
            return True
        # One long group: not a column of numbers or a fraction, not an example.
        if (len(set(self._sizes)) > 1 and size <= _DIGITS[-1]) or self.text[start : start + size] in _EXAMPLES:
            return False
        return _DATA.search(before) is None or _PHONE.search(before) is not None

    def _gap(self, group: int) -> str:
        return self.text[self.groups[group - 1][1] : self.groups[group][0]].strip()

    def _digits(self, last: int) -> str:
        return "".join(_GROUP.findall(self.text[self.groups[self.first][0] : self.groups[last - 1][1]]))

    def _stretches(self) -> Iterator[tuple[int, str]]:
        """Yield, longest first, how far a number of acceptable length may reach, and its digits."""
        ends: list[int] = []
        digits = 0
        for last in range(self.first, min(self.first + _MOST_GROUPS, len(self.groups))):
            digits += self._counts[last]
            if digits > _DIGITS[-1]:
                break
            if digits in _DIGITS:
                ends.append(last + 1)
        return ((last, self._digits(last)) for last in reversed(ends))

    @cached_property
    def _counts(self) -> list[int]:
        """How many digits each group has: fewer than characters when they were spelled out."""
        return [
            size if size < _SHORTEST_SPELLED else sum(map(len, _GROUP.findall(self.text, start, end)))
            for (start, end), size in zip(self.groups, self._sizes, strict=True)
        ]
