"""Term lists: what a line means. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from workers.moderation.normalise import fold
from workers.moderation.skeleton import skeleton

MAX_TERM_CHARACTERS = 100


class TermError(ValueError):
    """A line of a term list that cannot be used."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Term:
    """One entry of a list. `fuck*` is `open_end`, `*fuck*` is `open_start` and `open_end`."""

    text: str
    open_start: bool = False
    open_end: bool = False
    name: bool = False  # also a person's name: `dick` with the mark `(name)`
    language: str = ""  # of the list, when it states one


def parse_terms(content: str) -> list[Term]:
    """Read a term list: one term a line, `#` starts a comment, `#! language: xx` states the language.

    Raises `TermError` for a line that holds nothing to look for.
    """
    terms: list[Term] = []
    language = ""
    for number, line in enumerate(content.splitlines(), 1):
        if line.startswith("#!"):
            key, _, value = line[2:].partition(":")
            if key.strip() != "language":
                raise TermError(number, f"found the header {key.strip()!r}, only language is known")
            language = value.strip()
        entry = line.split("#", 1)[0].strip()
        if entry:
            terms.append(_parse_term(entry, language, number))
    return terms


def _parse_term(entry: str, language: str, number: int) -> Term:
    text = fold(entry.removesuffix("(name)").strip())
    term = Term(text.strip("*").strip(), text.startswith("*"), text.endswith("*"), entry.endswith("(name)"), language)
    if not any(map(str.isalpha, term.text)) or not skeleton(term.text):
        raise TermError(number, f"{entry!r} has no letter to look for")
    if len(term.text) > MAX_TERM_CHARACTERS:
        raise TermError(number, f"a term has {len(term.text)} characters, {MAX_TERM_CHARACTERS} allowed")
    return term
