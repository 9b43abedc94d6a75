"""Find e-mail addresses in folded text, also those written for people only. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from workers.moderation.domains import top_level_domains
from workers.moderation.linear import Linear
from workers.moderation.wordsets import words

Place = tuple[int, int]

# RFC 5321 lengths; re2, because a local part is searched for at every character.
_PLAIN = Linear(r"[A-Za-z0-9.!#$%&'+^_~\-]+\s?@\s?((?:[A-Za-z0-9\-]+\s?\.\s?)+)([A-Za-z][A-Za-z0-9\-]+)")
_AT = r"\s*(?:\(\s*at\s*\)|\[\s*at\s*\]|\{\s*at\s*\}|<\s*at\s*>"
_AT += r"|\(\s*a\s*\)|\[\s*a\s*\]|\(\s*@\s*\)|\[\s*@\s*\]|_at_|-at-|\*at\*)\s*"
_DOT = r"\s*(?:\(\s*dot\s*\)|\[\s*dot\s*\]|\{\s*dot\s*\}|<\s*dot\s*>"
_DOT += r"|\(\s*\.\s*\)|\[\s*\.\s*\]|_dot_|-dot-|\s(?:dot|punkt|punto|point)\s)\s*"
_LOCAL = r"([A-Za-z0-9_+\-]+(?:(?:\.|" + _DOT + r")[A-Za-z0-9_+\-]+){0,3})"
_LABELS = r"((?:[A-Za-z0-9\-]+(?:%s))+)([A-Za-z]{2,})"
_BRACKETED = Linear("(?i)" + _LOCAL + _AT + _LABELS % (r"\s?\.\s?|" + _DOT), groups=True)
_SPOKEN = Linear("(?i)" + _LOCAL + r"(?:\s+(?:at|arroba|chez)\s+|\s?@\s?)" + _LABELS % (_DOT + r"|\."), groups=True)
_PERHAPS_BRACKETED = re.compile(r"[(\[{<_\-*]\s*[aA@]")
# Words before `at` that are no mailbox: `look at example dot com`.
_NO_MAILBOX = words(
    """
    about arrive arrived available be bought browse buy call check checked click customers date do doing
    down email find found go got have here him hosted it items job listed live located login look looked
    looking mail me more now off offer on online order ordered out page people prices product products
    purchased read register sale see seen shop shopped shopping sign site sold staff start store stuff
    support team that them there these things this today up us visit visited website work works you
    """
)

_FILES = words("png jpg jpeg gif webp svg")


def find_emails(text: str) -> Iterator[Place]:
    """Yield where e-mail addresses stand."""
    if "@" in text:
        for start, end in _PLAIN.places(text):
            place = _plain(text[start:end], start, text)
            if place:
                yield place
    if _PERHAPS_BRACKETED.search(text):
        for whole, _, _, top in _BRACKETED.matches(text):
            if text[slice(*top)].lower() in top_level_domains():
                yield whole
    lower = text.lower()
    if "dot" in lower or "punkt" in lower or "punto" in lower or "point" in lower:
        for whole, local, _, top in _SPOKEN.matches(text):
            if _spoken(*(text[slice(*place)].lower() for place in (whole, local, top))):
                yield whole


def _plain(found: str, start: int, text: str) -> Place | None:
    """Return where the address stands in what was found, which may reach too far on either side."""
    local, _, host = found.partition("@")
    labels, _, top = (part.strip() for part in host.rpartition("."))
    spaced_dots = any(char.isspace() for char in labels)
    end = start + len(found)
    if top.lower() not in top_level_domains():
        # `name@example.com.Thanks`: the address may end one label earlier.
        shorter = labels.rstrip(". ").rpartition(".")
        if not shorter[0] or shorter[2].lower().strip() not in top_level_domains():
            return None
        end -= len(found) - len(found.rstrip()) + len(top) + 1
    elif spaced_dots and len(labels.split()) > 1 and text[end : end + 1].isalnum():
        return None
    name = local.rstrip()
    if not any(char.isalnum() for char in name) or top.lower() in _FILES:
        return None
    if name == "git" and text[end : end + 1] == ":":
        return None
    begin = start + len(name) - len(name.lstrip("'.!&#-"))
    return begin, end


def _spoken(found: str, local: str, top: str) -> bool:
    if top not in top_level_domains():
        return False
    spoken_at = "@" not in found
    return not (spoken_at and local in _NO_MAILBOX)
