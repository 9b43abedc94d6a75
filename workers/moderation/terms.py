"""Find terms of a list in folded text, also where they are disguised. Pure.

Every term is a pattern of one Aho-Corasick automaton with the boundary written into it: ` cunt ` is
a whole word, ` fuck` a beginning. A text is searched as several views (see `skeleton`), so that no
view needs patterns of its own. `TermIndex.suspects` searches a joined batch cheaply and may name a
message too many; `TermIndex.find` looks at one message and decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, pairwise

import ahocorasick_rs

from workers.moderation.batch import Joined
from workers.moderation.disguise import DISGUISED, Pattern, Reading, Sighting, Wildcards, has_mixed_words
from workers.moderation.skeleton import (
    View,
    collapse,
    has_leet,
    has_single_letters,
    leet_view,
    plain_view,
    skeleton,
    spelled_view,
    squeeze,
)
from workers.moderation.wordlist import Term

# Up to this many terms, patterns for broken (`fu ck`) and doubled (`fucck`) spellings are added: about
# twenty for a term. Beyond it the list is data rather than a list of insults, and memory matters.
MAX_EXPANDED_TERMS = 5_000
# Memory of a full automaton is affordable up to here; it is a third faster than the compact one.
MAX_DFA_PATTERNS = 60_000
MAX_HITS = 40
MAX_LOOKED_AT = 100
# In words that were spelled out without gaps between them, terms are looked for in so many letters.
MAX_SPELLED_LETTERS = 300
MAX_SPELLED_TERM = 14


@dataclass(slots=True)
class FoundTerm:
    """A term in a folded text; *owner* is the rule that listed it."""

    start: int
    end: int
    owner: int
    term: Term


class _Search:
    """What was found so far in one message, and how much was looked at."""

    __slots__ = ("_looked_at", "_sightings", "folded", "found", "mixed", "overflow")

    def __init__(self, folded: str, original: str) -> None:
        self.folded = folded
        self.mixed = has_mixed_words(original)
        self.found: dict[tuple[int, int, int], FoundTerm] = {}
        self.overflow: dict[int, Term] = {}
        self._looked_at = 0
        self._sightings: dict[tuple[object, ...], Sighting] = {}

    def sighting(self, words: Sequence[str], span: tuple[int, int], reading: Reading) -> Sighting:
        """Return what is seen at *span*: the same in every view that has the same words there."""
        key = (span, reading, *words)
        found = self._sightings.get(key)
        if found is None:
            found = self._sightings[key] = Sighting(words, self.folded, span, self.mixed, reading)
        return found

    @property
    def full(self) -> bool:
        return len(self.found) >= MAX_HITS or self._looked_at >= MAX_LOOKED_AT

    def look(self, sighting: Sighting, pattern: Pattern) -> None:
        """Note *pattern* if it is what was seen; what is noted already is not looked at again."""
        if (*sighting.span, pattern.owner) in self.found:
            return
        if self.full:
            self.overflow[pattern.owner] = pattern.term
            return
        self._looked_at += 1
        if sighting.shows(pattern):
            self.add(sighting.span, pattern)

    def add(self, span: tuple[int, int], pattern: Pattern) -> None:
        self.found.setdefault((*span, pattern.owner), FoundTerm(*span, pattern.owner, pattern.term))


class TermIndex:
    """All term lists of one policy. *terms* and *allowed* come with the number of their rule."""

    def __init__(self, terms: Iterable[tuple[int, Term]], allowed: Iterable[tuple[int, Term]] = ()) -> None:
        self._patterns: dict[str, list[Pattern]] = {}
        entries = list(dict.fromkeys(terms))
        expand = len(entries) <= MAX_EXPANDED_TERMS
        for owner, term in entries:
            self._add(owner, term, expand)
        self._texts = list(self._patterns)
        self._beginnings = {text[1:5] for text in self._texts if text[0] == " "}
        self._search = _automaton(self._texts)
        phrases = [text for text in self._texts if " " in text.strip()]
        self._words = _bytes_automaton([text for text in self._texts if " " not in text.strip()])
        self._phrases = _bytes_automaton(phrases)
        self._phrase_letters = _bytes_automaton(_shortest({text.replace(" ", "") for text in phrases}))
        self._allowed: dict[str, set[int]] = {}
        for owner, term in allowed:
            self._allowed.setdefault(_bounded(skeleton(term.text), term), set()).add(owner)
        self._allowed_texts = list(self._allowed)
        self._allowed_search = _automaton(self._allowed_texts)
        self._wildcards = Wildcards(pattern for found in self._patterns.values() for pattern in found)

    def __bool__(self) -> bool:
        return bool(self._texts)

    def _add(self, owner: int, term: Term, expand: bool) -> None:
        plain = skeleton(term.text)
        pattern = Pattern(term, owner, plain.replace(" ", ""), plain.count(" ") + 1)
        shapes = {plain}
        if len(squeeze(plain)) >= 4:
            shapes.add(squeeze(plain))
        elif plain != squeeze(plain):
            shapes.update(plain + plain[-1] * more for more in (1, 2, 3, 4))
        if expand and pattern.words == 1:
            shapes.update(_doubled(plain))
            for shape in _broken(plain):  # never inside a word: `push it` holds `sh it`
                self._patterns.setdefault(f" {shape}{'' if term.open_end else ' '}", []).append(pattern)
        for shape in shapes:
            self._patterns.setdefault(_bounded(shape, term), []).append(pattern)

    def suspects(self, joined: Joined) -> set[int]:
        """Return the messages that may hold a term."""
        found: set[int] = set()
        perhaps: set[int] = set()  # these have the letters of a phrase in a row
        for reading in joined.readings:
            found |= _messages_with(self._words, reading.words, joined)
            perhaps |= _messages_with(self._phrase_letters, reading.letters, joined)
        found.update(joined.messages_with(DISGUISED))
        perhaps -= found
        if perhaps:
            joined = joined.only(perhaps)
            for reading in joined.readings:
                found |= _messages_with(self._phrases, collapse(reading.words), joined)
        return found

    def find(self, folded: str, original: str) -> list[FoundTerm]:
        """Return the terms in *folded*, the folding of *original*, that are meant as such.

        In a message with more than `MAX_HITS`, or with more to look at than `MAX_LOOKED_AT`, the whole
        text is the hit, of every rule that has terms in it: work stays bounded, nothing slips through.
        """
        search = _Search(folded, original)
        leet = leet_view(folded)
        plain = plain_view(folded) if has_leet(folded) else leet
        self._find_in(plain, Reading.PLAIN if plain is not leet else Reading.LEET, search)
        if plain is not leet:
            self._find_in(leet, Reading.LEET, search)
        squeezed = leet.squeezed()
        if squeezed is not None:
            self._find_in(squeezed, Reading.LEET, search)
        if not search.full:
            self._find_spelled(leet, search)
            if plain is not leet and (not folded.isascii() or not {"|", "!", "+"}.isdisjoint(folded)):
                self._find_spelled(plain, search)  # `c|u|n|t`: the signs divide after all
            for start, end, pattern in self._wildcards.find(folded):
                search.add((start, end), pattern)
        if search.full:
            owners = search.overflow | {hit.owner: hit.term for hit in search.found.values()}
            return [FoundTerm(0, len(folded), owner, term) for owner, term in owners.items()]
        return self._without_allowed(list(search.found.values()), plain)

    def _find_in(self, view: View, reading: Reading, search: _Search) -> None:
        matches = self._search.find_matches_as_indexes(view.text, overlapping=True)
        sightings: dict[tuple[int, int], Sighting] = {}
        for done, (number, start, end) in enumerate(matches):
            if search.full:
                # Once each, in the order in which they come last.
                left = reversed(dict.fromkeys(number for number, _, _ in reversed(matches[done:])))
                for pattern in chain.from_iterable(self._patterns[self._texts[number]] for number in left):
                    search.overflow[pattern.owner] = pattern.term
                return
            patterns = self._patterns[self._texts[number]]
            first, last = place = view.words_at(start, end)
            sighting = sightings.get(place)
            if sighting is None:
                sighting = sightings[place] = search.sighting(view.words[first:last], view.span(*place), reading)
            for pattern in patterns:
                search.look(sighting, pattern)

    def _find_spelled(self, view: View, search: _Search) -> None:
        if not has_single_letters(view):
            return
        spelled, joined = spelled_view(view)
        self._find_in(spelled, Reading.LEET, search)
        letters = MAX_SPELLED_LETTERS
        for whole, span in joined:
            word = whole[:letters]
            letters -= len(word)
            if not word:
                return
            sighting = search.sighting([word], span, Reading.SPELLED)
            for part in self._parts(word):
                for pattern in self._patterns.get(f" {part} ", ()) or self._patterns.get(f" {part}", ()):
                    search.look(sighting, pattern)

    def _parts(self, word: str) -> Iterator[str]:
        """Yield the stretches of a word that was spelled out in which a term may lie, also squeezed."""
        if len(word) <= MAX_SPELLED_TERM:
            yield word
        for text in dict.fromkeys((word, squeeze(word))):
            for at in range(len(text) - 3):
                if text[at : at + 4] in self._beginnings:
                    yield from (text[at:end] for end in range(at + 4, min(at + MAX_SPELLED_TERM, len(text)) + 1))

    def _without_allowed(self, found: list[FoundTerm], plain: View) -> list[FoundTerm]:
        if not found or not self._allowed_texts:
            return found
        innocent: list[tuple[int, int, set[int]]] = []
        for number, start, end in self._allowed_search.find_matches_as_indexes(plain.text, overlapping=True):
            first, last = plain.words_at(start, end)
            owners = self._allowed[self._allowed_texts[number]]
            innocent.append((*plain.span(first, last), owners))
        if not innocent:
            return found
        return [
            hit
            for hit in found
            if not any(
                start <= hit.start and hit.end <= end and hit.owner in owners
                for start, end, owners in innocent[:MAX_LOOKED_AT]
            )
        ]


def _automaton(patterns: Sequence[str]) -> ahocorasick_rs.AhoCorasick:
    small = len(patterns) <= MAX_DFA_PATTERNS
    return ahocorasick_rs.AhoCorasick(
        patterns,
        matchkind=ahocorasick_rs.MATCHKIND_STANDARD,
        store_patterns=False,
        implementation=ahocorasick_rs.Implementation.DFA if small else None,
    )


def _bytes_automaton(patterns: Sequence[str]) -> ahocorasick_rs.BytesAhoCorasick:
    small = len(patterns) <= MAX_DFA_PATTERNS
    return ahocorasick_rs.BytesAhoCorasick(
        [pattern.encode() for pattern in patterns],
        matchkind=ahocorasick_rs.MATCHKIND_STANDARD,
        implementation=ahocorasick_rs.Implementation.DFA if small else None,
    )


def _messages_with(automaton: ahocorasick_rs.BytesAhoCorasick, view: bytes, joined: Joined) -> set[int]:
    hits = automaton.find_matches_as_indexes(view, overlapping=True)
    return joined.messages_of_view(view, (start for _, start, _ in hits)) if hits else set()


def _shortest(texts: set[str]) -> list[str]:
    """Return those of *texts* that hold no other: where one of them all is found, one of these is."""
    ordered = sorted(texts, key=len)
    automaton = _automaton(ordered)
    return [text for text in ordered if len(automaton.find_matches_as_indexes(text, overlapping=True)) == 1]


def _bounded(shape: str, term: Term) -> str:
    return ("" if term.open_start else " ") + shape + ("" if term.open_end else " ")


def _doubled(word: str) -> Iterator[str]:
    """Yield *word* with one of its letters doubled."""
    if len(word) >= 4:
        for at in range(len(word)):
            yield word[: at + 1] + word[at:]


def _broken(word: str) -> Iterator[str]:
    """Yield *word* broken in two and, when it is short, in three."""
    if len(word) < 4:
        return
    for cuts in (1, 2) if len(word) <= 7 else (1,):
        for places in combinations(range(1, len(word)), cuts):
            edges = [0, *places, len(word)]
            yield " ".join(word[a:b] for a, b in pairwise(edges))
