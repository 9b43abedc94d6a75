"""Length, capitals and emoji: what a message looks like from afar. Pure."""

from __future__ import annotations

import re

# Blocks of pictographs; modifiers and joiners do not count, so that a family is not five emoji.
_EMOJI = re.compile(
    "[\u231a\u231b\u23e9-\u23f3\u25fd\u25fe\u2600-\u27bf\u2b1b\u2b1c\u2b50\u2b55"
    "\U0001f300-\U0001f3fa\U0001f400-\U0001f64f\U0001f680-\U0001f6ff\U0001f900-\U0001f9ff\U0001fa70-\U0001faff]"
)


def capitals_share(text: str, min_letters: int) -> float:
    """Return the share of capitals among the letters; 0 when there are fewer than *min_letters*."""
    letters = sum(map(str.isalpha, text))
    if letters < max(min_letters, 1):
        return 0.0
    return sum(map(str.isupper, text)) / letters


def emoji_share(text: str, min_emoji: int) -> float:
    """Return the share of emoji among the visible characters; 0 when there are fewer than *min_emoji*."""
    if text.isascii():
        return 0.0
    emoji = len(_EMOJI.findall(text))
    if emoji < max(min_emoji, 1):
        return 0.0
    visible = len(text) - sum(map(str.isspace, text)) - text.count("\ufe0f") - text.count("\u200d")
    return emoji / max(visible, emoji)
