"""Characters that are drawn like an ASCII letter or digit, and what they are drawn like.

Source: written for this project from the shapes in the Unicode code charts and the names in
`unicodedata`. It is a small subset of what UTS #39 (https://www.unicode.org/reports/tr39/) calls
confusables, and holds no data of that file. Compatibility forms (full-width, mathematical, circled,
superscript) are not listed: NFKD removes those.
"""

from __future__ import annotations

# Letters of other scripts that a reader takes for the Latin letter, alone or in a word.
_STRICT = {
    "a": "аɑαᴀ",  # Cyrillic a, Latin alpha, Greek alpha
    "b": "вβьʙƅɓƀ",
    "c": "сϲᴄⅽƈȼ",
    "d": "ԁɗđᴅɖ",
    "e": "еєεɛǝəᴇҽ℮",
    "f": "ғꜰƒϝɟ",
    "g": "ɡɢǥɠց",
    "h": "һнʜħհɦ",
    "i": "іιıɪїӏᴉɨɩ",
    "j": "јᴊϳ",
    "k": "кκᴋƙқҝ",
    "l": "ʟłɫƚⅼ",
    "m": "мᴍⅿɱ",
    "n": "ηɴոŋɲƞᴎ",
    "o": "оοσօᴏøɵө",
    "p": "рρᴘƥ",
    "q": "ԛգɋ",
    "r": "ʀɍɼгᴦ",
    "s": "ѕꜱʂ",
    "t": "тτᴛŧƭʇ",
    "u": "υսᴜʉʋц",
    "v": "νѵᴠⅴ",
    "w": "ѡωԝᴡɯ",
    "x": "хχҳⅹ",
    "y": "уγʏүɏў",
    "z": "ᴢƶʐ",
}

# Look-alikes in a Latin word only: inside a Cyrillic word they are just its letters.
_LOOSE = {"u": "ипµ", "r": "я", "w": "шщ", "e": "эз", "b": "б", "n": "л", "h": "ч", "x": "ж"}

# Upside-down letters, as "flip text" pages make them.
_TURNED = {"a": "ɐ", "c": "ɔ", "g": "ƃ", "h": "ɥ", "k": "ʞ", "m": "ɯ", "r": "ɹ", "v": "ʌ", "w": "ʍ", "y": "ʎ"}

_PUNCTUATION = {
    "'": "‘’‚‛′ʼʹ`´＇",
    '"': "“”„‟″«»",
    "-": "‐‑‒–—―−⁃﹘",
    ".": "․‧·。｡",
    "/": "⁄∕",
    ":": "ː∶",
}

STRICT: dict[str, str] = {other: latin for latin, others in {**_STRICT}.items() for other in others} | {
    other: latin for latin, others in _TURNED.items() for other in others
}
LOOSE: dict[str, str] = {other: latin for latin, others in _LOOSE.items() for other in others if other not in STRICT}
PUNCTUATION: dict[str, str] = {other: plain for plain, others in _PUNCTUATION.items() for other in others}

# Letters that NFKD leaves whole and that are two letters to a reader.
PAIRS: dict[str, str] = {"ß": "ss", "æ": "ae", "œ": "oe", "ĳ": "ij"}

# Currency signs used as letters. A control character stands for each, so that a folded text with a
# price in euros is still ASCII and takes the fast path of `str.translate`.
CURRENCY: dict[str, str] = {"€": "\x02", "¢": "\x03", "£": "\x04", "¥": "\x05", "₿": "\x06", "§": "\x07"}
CURRENCY_LETTERS: dict[str, str] = {
    "\x02": "e",
    "\x03": "c",
    "\x04": "l",
    "\x05": "y",
    "\x06": "b",
    "\x07": "s",
}
