"""Find API keys, tokens, private keys and typed passwords in folded text. Pure.

Sources: the formats published by the issuers (GitHub, GitLab, AWS, Google, Slack, Stripe, npm, PyPI,
SendGrid, Telegram), RFC 7519 (JWT), RFC 7468 (PEM).
"""

from __future__ import annotations

from collections.abc import Iterator

from workers.moderation.linear import Linear

Place = tuple[int, int]

# A key cut off at the end of a message is still a key: its END line is not waited for.
_KEYS = Linear(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----"
    r"(?:[A-Za-z0-9+/=\s:,\-]*?-----END [A-Z0-9 ]*PRIVATE KEY-----|[A-Za-z0-9+/=\s]*)"
    r"|\b(?:AKIA|ASIA|AGPA|AIDA|AROA|ANPA)[A-Z0-9]{16}\b"
    r"|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_[A-Za-z0-9_]{30,}|\bglpat-[A-Za-z0-9_\-]{20,}"
    r"|\bxox[abeoprs]-[A-Za-z0-9\-]{10,}|\bxapp-[0-9]-[A-Za-z0-9\-]{20,}"
    r"|\b[srp]k_(?:live|test)_[A-Za-z0-9]{10,}|\bwhsec_[A-Za-z0-9+/=]{20,}"
    r"|\bAIza[A-Za-z0-9_\-]{35}|\bya29\.[A-Za-z0-9_\-]{20,}|\bGOCSPX-[A-Za-z0-9_\-]{20,}"
    r"|\bsk-(?:[a-z]+[0-9]*-)*[A-Za-z0-9_\-]{20,}"
    r"|\bnpm_[A-Za-z0-9]{36}|\bpypi-[A-Za-z0-9_\-]{16,}|\bdop_v1_[a-f0-9]{64}|\bhf_[A-Za-z0-9]{30,}"
    r"|\bSG\.[A-Za-z0-9_\-]{16,}\.[A-Za-z0-9_\-]{16,}|\bshp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}"
    r"|\b[0-9]{8,10}:AA[A-Za-z0-9_\-]{32,}|\bkey-[a-f0-9]{32}\b|\b(?:AC|SK)[a-f0-9]{32}\b"
    r"|\beyJ[A-Za-z0-9_\-]{8,}\.eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*"
)
_NAMED = Linear(
    r"(?i)(?:\b|_)(?:pass(?:word|wd|code|phrase)?|pwd?|api[ _\-]?key|secret(?:[ _\-](?:access[ _\-])?key)?"
    r"|access[ _\-]?(?:key|token)"
    r"|auth[ _\-]?token|client[ _\-]?secret|token)(?:\s*[:=]\s*|\s+is\s*:?\s+)[\"'`]?([^\s\"'`<>\[\]]{6,})"
    r"|\b(?:password|passwd|passcode|pwd|bearer)\s+[\"'`]?([^\s\"'`<>\[\]]{6,})",
    groups=True,
)
_URL_PASSWORD = Linear(r"(?i)\b[a-z][a-z0-9+.\-]*://[^\s/:@]*:([^\s/@]+)@", groups=True)
_CARD_CODE = Linear(
    r"(?i)\b(?:cvv2?|cvc2?|cid|csc|security code)(?:\s*(?:code|number|no|is|was|:|=|-))*\s*([0-9]{3,4})\b",
    groups=True,
)
# What makes `password is …` worth a closer look, cheap enough for every message.
CUES = r"(?i)pass(?:word|wd|code|phrase)|pwd|\bpw\b|api[ _\-]?key|secret|token|bearer|cvv|cvc|security code"


def find_keys(text: str) -> Iterator[Place]:
    """Yield where keys, tokens and passwords stand."""
    yield from _KEYS.places(text)
    for _, named, behind in _NAMED.matches(text):
        start, end = named if named[0] >= 0 else behind
        word = text[start:end].rstrip(".,;!?)")
        if _like_a_password(word):
            yield start, start + len(word)
    for _, password in _URL_PASSWORD.matches(text):
        yield password


def find_card_codes(text: str) -> Iterator[Place]:
    """Yield where the verification code of a card stands behind its name."""
    for _, code in _CARD_CODE.matches(text):
        yield code


def _like_a_password(word: str) -> bool:
    """Say whether *word* is something to type rather than to read: letters with digits or signs inside."""
    letters = any(char.isalpha() for char in word)
    digits = any(char.isdigit() for char in word)
    signs = any(char in "!@#$%^&*+=~?" for char in word[:-1])
    return len(word) >= 6 and letters and (digits or signs) and "://" not in word
