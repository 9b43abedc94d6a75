"""Find personal data that is to be masked: which kinds, and what is shown in their place. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from workers.moderation.account_numbers import NATIONAL_IDS, find_cards, find_ibans, find_national_ids
from workers.moderation.batch import Joined
from workers.moderation.credentials import CUES, find_card_codes, find_keys
from workers.moderation.email_addresses import find_emails
from workers.moderation.linear import Linear
from workers.moderation.phone_numbers import find_phones, load_plans


class Category(StrEnum):
    """Kinds of personal data, in the order in which they are looked for."""

    SECRET = "secret"  # noqa: S105 - API keys, tokens, private keys, passwords behind their name
    CARD = "card"  # and its verification code behind its name
    IBAN = "iban"
    ID = "id"  # national ids
    EMAIL = "email"
    PHONE = "phone"


# Of these the last four characters may be shown: people confirm an account by them.
_ENDINGS = frozenset({Category.CARD, Category.IBAN, Category.PHONE})


_SHOWN = {category: f"[{category}]" for category in Category}


MAX_PIECES = 100
_WITHOUT_DIGITS = str.maketrans("", "", "0123456789")


@dataclass(slots=True)
class Found:
    """One piece of personal data in a folded text."""

    start: int
    end: int
    category: Category
    shown: str


_ADDRESSES = frozenset({Category.EMAIL})
_NUMBERS = frozenset({Category.CARD, Category.IBAN, Category.ID, Category.PHONE})
_SECRETS = frozenset({Category.SECRET, Category.CARD})
# A text in which one of these finds nothing holds none of its categories: the spoken form of an @, which is looked for
# apart; digits enough for a phone number, or the beginning of an IBAN or id; the beginning or name of a secret.
_INTERESTS = (
    (
        _ADDRESSES,
        Linear(
            r"(?i:[(\[{<*_\-]\s*at\s*[)\]}>*_\-]|\s(?:at|chez)\s[^\x01]*?(?:dot|punkt|punto|point)"
            r"|[(\[]\s*a\s*[)\]]|arroba)"
        ),
    ),
    (
        _NUMBERS,
        Linear(
            r"[0-9](?:[^0-9a-zA-Z\x01]{0,4}[0-9]){6}"
            r"|\b[A-Za-z]{2} ?[0-9]{2}[ .\-]{0,2}[A-Za-z0-9]{4}[ .\-]{0,2}[0-9]|\b[A-Za-z]{2}(?: ?[0-9]{2}){3}"
            r"|[A-Za-z]{6}[0-9]{2}[A-Za-z][0-9]{2}[A-Za-z]"
        ),
    ),
    (_SECRETS, Linear(r"[A-Za-z0-9_\-]{20}|BEGIN|xox|[rsp]k_|://[^\s/@\x01]*@|" + f"(?:{CUES})")),
)
# Most messages hold none of all that: one search tells.
_ANY_INTEREST = Linear("|".join(f"(?:{pattern.pattern})" for _, pattern in _INTERESTS))


class PersonalData:
    """Looks for the *categories* that a rule names."""

    def __init__(
        self,
        categories: frozenset[Category],
        phone_regions: tuple[str, ...] = (),
        national_ids: frozenset[str] = frozenset(NATIONAL_IDS),
        show_last: int = 0,
    ) -> None:
        self._categories = categories
        self._regions = phone_regions
        self._national_ids = national_ids
        self._show_last = show_last
        if Category.PHONE in categories:
            load_plans()

    def suspects(self, joined: Joined) -> dict[int, frozenset[Category]]:
        """Return the messages that may hold personal data, and of which categories."""
        found: dict[int, frozenset[Category]] = {}
        addresses = _ADDRESSES & self._categories
        if addresses:
            found = dict.fromkeys(joined.messages_holding(b"@"), addresses)
        interesting = frozenset(joined.messages_with(_ANY_INTEREST))
        if not interesting:
            return found
        few = joined.only(interesting)
        for categories, pattern in _INTERESTS:
            wanted = categories & self._categories
            if wanted:
                for message in few.messages_with(pattern):
                    found[message] = found.get(message, frozenset()) | wanted
        return found

    def find(self, folded: str, wanted: frozenset[Category] = frozenset(Category)) -> list[Found]:
        """Return the personal data of one message; of two that overlap, the kind found first.

        A message with more than `MAX_PIECES` is one piece of personal data: a list of customers.
        """
        found: list[Found] = []
        taken = bytearray(len(folded))
        for start, end, category in self._places(folded, wanted & self._categories):
            if 1 in taken[start:end]:
                continue
            if len(found) == MAX_PIECES:
                return [Found(0, len(folded), category, "[personal data]")]
            taken[start:end] = bytes([1]) * (end - start)
            found.append(Found(start, end, category, self._shown(category, folded[start:end])))
        return found

    def _places(self, folded: str, wanted: frozenset[Category]) -> Iterator[tuple[int, int, Category]]:
        if Category.SECRET in wanted:
            yield from ((*place, Category.SECRET) for place in find_keys(folded))
        digits = len(folded) - len(folded.translate(_WITHOUT_DIGITS)) if wanted != _ADDRESSES else 0
        if digits >= 14 and Category.CARD in wanted:
            yield from ((*place, Category.CARD) for place in find_cards(folded))
        if digits >= 3 and Category.CARD in wanted:
            yield from ((*place, Category.CARD) for place in find_card_codes(folded))
        if digits >= 4 and Category.IBAN in wanted:
            yield from ((*place, Category.IBAN) for place in find_ibans(folded))
        if digits >= 6 and Category.ID in wanted:
            yield from ((*place, Category.ID) for place in find_national_ids(folded, self._national_ids))
        if Category.EMAIL in wanted:
            yield from ((*place, Category.EMAIL) for place in find_emails(folded))
        if digits >= 7 and Category.PHONE in wanted:
            yield from ((*place, Category.PHONE) for place in find_phones(folded, self._regions))

    def _shown(self, category: Category, found: str) -> str:
        if self._show_last and category in _ENDINGS and len(found) >= 4 + self._show_last:
            kept = "".join(char for char in found if char.isalnum())[-self._show_last :]
            if kept:  # a code of three digits would be shown whole
                return f"[{category} …{kept}]"
        return _SHOWN[category]
