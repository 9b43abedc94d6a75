"""A policy made ready to judge: every rule as something that searches a batch. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from workers.moderation.batch import Batch
from workers.moderation.findings import Finding, mask
from workers.moderation.flood import FloodLimits, FloodMemory, shapes_of
from workers.moderation.language import may_be, scores
from workers.moderation.links import LinkFinder, LinkPolicy
from workers.moderation.patterns import PatternSet
from workers.moderation.personal_data import PersonalData
from workers.moderation.policy import (
    CapitalsRule,
    EmojiRule,
    ExternalRule,
    FloodRule,
    LengthRule,
    LinksRule,
    PatternsRule,
    PersonalDataRule,
    Policy,
    Rule,
    Scope,
    TermsRule,
)
from workers.moderation.shape import capitals_share, emoji_share
from workers.moderation.terms import TermIndex
from workers.moderation.verdict import Action, Candidate, Hit, Verdict
from workers.moderation.wordlist import Term, parse_terms

STRICTNESS = {action: place for place, action in enumerate(Action)}
# Messages searched as one text: long enough that calls do not count, short enough for the cache.
CHUNK = 256

Applies = Callable[[Candidate], bool]


def in_scope(scope: Scope, candidate: Candidate) -> bool:
    """Say whether a rule of this scope looks at *candidate*."""
    if scope.roles and candidate.role not in scope.roles:
        return False
    if candidate.role in scope.except_roles:
        return False
    if scope.ticket_prefixes and not candidate.ticket_id.startswith(scope.ticket_prefixes):
        return False
    if not scope.languages:
        return True
    score = scores(candidate.text)
    return any(may_be(score, language) for language in scope.languages)


def all_in_scope(scope: Scope, candidates: Sequence[Candidate]) -> Sequence[int]:
    """Return which of *candidates* a rule of this scope looks at."""
    roles = {candidate.role for candidate in candidates}
    any_role = (not scope.roles or roles <= scope.roles) and roles.isdisjoint(scope.except_roles)
    if any_role and not scope.ticket_prefixes and not scope.languages:
        return range(len(candidates))
    return [place for place, candidate in enumerate(candidates) if in_scope(scope, candidate)]


class Scanner:
    """One rule, or several of one kind, as what finds their hits in a batch."""

    def scan(self, batch: Batch, memory: FloodMemory) -> Iterator[tuple[int, Finding]]:
        """Yield the number of a rule and what it found; at most one finding for a message and rule."""
        raise NotImplementedError


class TermsScanner(Scanner):
    """All rules of kind terms at once: they share one automaton."""

    def __init__(self, rules: Sequence[tuple[int, TermsRule]], policy: Policy) -> None:
        self._rules = dict(rules)
        terms: list[tuple[int, Term]] = []
        allowed: list[tuple[int, Term]] = []
        for number, rule in rules:
            terms += ((number, term) for name in rule.lists for term in policy.lists[name])
            terms += ((number, term) for entry in rule.terms for term in parse_terms(entry))
            allowed += ((number, term) for name in rule.allow_lists for term in policy.lists[name])
            allowed += ((number, term) for entry in rule.allow for term in parse_terms(entry))
        self._index = TermIndex(terms, allowed)

    def scan(self, batch: Batch, memory: FloodMemory) -> Iterator[tuple[int, Finding]]:
        for message in sorted(self._index.suspects(batch.joined)):
            yield from self._scan_message(batch, message)

    def _scan_message(self, batch: Batch, message: int) -> Iterator[tuple[int, Finding]]:
        folded, candidate = batch.folded[message], batch.candidates[message]
        found: dict[int, dict[tuple[int, int], None]] = {}
        score: dict[str, int] = {}
        for hit in self._index.find(folded, candidate.text):
            language = hit.term.language
            if language and not score:
                score = scores(candidate.text)
            if not language or may_be(score, language):
                found.setdefault(hit.owner, {})[hit.start, hit.end] = None
        for number, places in found.items():
            rule = self._rules[number]
            if in_scope(rule.scope, candidate):
                detail = f"{len(places)} term{'s' * (len(places) > 1)}"
                spans = (
                    [batch.span(message, *place, rule.shown) for place in places] if rule.action is Action.MASK else []
                )
                yield number, Finding(message, detail, spans)


@dataclass(frozen=True, slots=True)
class PatternsScanner(Scanner):
    number: int
    rule: PatternsRule
    patterns: PatternSet

    def scan(self, batch: Batch, memory: FloodMemory) -> Iterator[tuple[int, Finding]]:
        lines = batch.joined if self.rule.normalised else batch.original_lines
        anywhere = self.patterns.anywhere
        for message in lines.messages if anywhere is None else lines.messages_with(anywhere):
            text = batch.folded[message] if self.rule.normalised else batch.searchable(message)
            places = list(self.patterns.find(text))
            if places and in_scope(self.rule.scope, batch.candidates[message]):
                yield self.number, self._finding(batch, message, places)

    def _finding(self, batch: Batch, message: int, places: list[tuple[int, int]]) -> Finding:
        spans = []
        if self.rule.action is Action.MASK:
            make = batch.span if self.rule.normalised else batch.original_span
            spans = [make(message, *place, self.rule.shown) for place in places]
        return Finding(message, f"{len(places)} match{'es' * (len(places) > 1)}", spans)


@dataclass(frozen=True, slots=True)
class LinksScanner(Scanner):
    number: int
    rule: LinksRule
    finder: LinkFinder

    def scan(self, batch: Batch, memory: FloodMemory) -> Iterator[tuple[int, Finding]]:
        for message in self.finder.suspects(batch.joined, batch.texts):
            candidate = batch.candidates[message]
            found = self.finder.find(batch.folded[message], candidate.text)
            if not found or not in_scope(self.rule.scope, candidate):
                continue
            spans = []
            if self.rule.action is Action.MASK:
                spans = [batch.span(message, link.start, link.end, self.rule.shown) for link, _ in found]
            yield self.number, Finding(message, ", ".join(sorted({flag for _, flag in found})), spans)


@dataclass(frozen=True, slots=True)
class PersonalDataScanner(Scanner):
    number: int
    rule: PersonalDataRule
    finder: PersonalData

    def scan(self, batch: Batch, memory: FloodMemory) -> Iterator[tuple[int, Finding]]:
        for message, categories in self.finder.suspects(batch.joined).items():
            found = self.finder.find(batch.folded[message], categories)
            if not found or not in_scope(self.rule.scope, batch.candidates[message]):
                continue
            spans = []
            if self.rule.action is not Action.ALLOW:  # held or rejected, it is archived masked too
                spans = [batch.span(message, piece.start, piece.end, piece.shown) for piece in found]
            kinds = {piece.category for piece in found}
            detail = ", ".join(sorted(kinds)) if len(kinds) > 1 else found[0].category.value
            yield self.number, Finding(message, detail, spans)


@dataclass(frozen=True, slots=True)
class FloodScanner(Scanner):
    number: int
    rule: FloodRule
    limits: FloodLimits

    def scan(self, batch: Batch, memory: FloodMemory) -> Iterator[tuple[int, Finding]]:
        candidates = batch.candidates
        places = all_in_scope(self.rule.scope, candidates)
        for message, detail in memory.judge_all(self.rule.id, candidates, places, self.limits, shapes_of(batch.texts)):
            yield self.number, Finding(message, detail)


@dataclass(frozen=True, slots=True)
class ShapeScanner(Scanner):
    """Length, capitals and emoji: a number of one message at a time, and nothing to mask."""

    number: int
    rule: LengthRule | CapitalsRule | EmojiRule

    def scan(self, batch: Batch, memory: FloodMemory) -> Iterator[tuple[int, Finding]]:
        for message, candidate in enumerate(batch.candidates):
            detail = self._detail(candidate.text)
            if detail and in_scope(self.rule.scope, candidate):
                yield self.number, Finding(message, detail)

    def _detail(self, text: str) -> str:
        rule = self.rule
        if isinstance(rule, LengthRule):
            return f"{len(text)} characters" if len(text) > rule.max_characters else ""
        if isinstance(rule, CapitalsRule):
            share = capitals_share(text, rule.min_letters)
        else:
            share = emoji_share(text, rule.min_emoji)
        return f"{share:.0%}" if share >= rule.share else ""


def _scanner(number: int, rule: Rule, policy: Policy) -> Scanner | None:
    match rule:
        case PatternsRule():
            return PatternsScanner(number, rule, PatternSet(rule.patterns, rule.ignore_case))
        case LinksRule():
            denied = rule.deny.union(*(policy.domains[name] for name in rule.deny_lists))
            finder = LinkFinder(
                LinkPolicy(
                    rule.allow,
                    denied,
                    rule.shorteners,
                    rule.suspicious_endings,
                    rule.brands,
                    frozenset(rule.flag),
                    rule.max_links,
                )
            )
            return LinksScanner(number, rule, finder)
        case PersonalDataRule():
            data = PersonalData(rule.categories, rule.phone_regions, frozenset(rule.national_ids), rule.show_last)
            return PersonalDataScanner(number, rule, data)
        case FloodRule():
            limits = FloodLimits(
                rule.messages,
                int(rule.seconds * 1_000),
                rule.duplicates,
                int(rule.duplicate_seconds * 1_000),
                rule.duplicate_min_characters,
            )
            return FloodScanner(number, rule, limits)
        case LengthRule() | CapitalsRule() | EmojiRule():
            return ShapeScanner(number, rule)
        case _:
            return None


class RuleSet:
    """All rules of one policy. Judging changes nothing but the `FloodMemory` it is given."""

    def __init__(self, policy: Policy) -> None:
        self.digest = policy.digest
        self.rules = policy.document.rules
        self.external = next((rule for rule in self.rules if isinstance(rule, ExternalRule)), None)
        # Hits never change, and most of a rule are alike.
        self._hit = lru_cache(maxsize=1_024)(self._make_hit)
        terms = [(number, rule) for number, rule in enumerate(self.rules) if isinstance(rule, TermsRule)]
        self._scanners: list[Scanner] = [TermsScanner(terms, policy)] if terms else []
        for number, rule in enumerate(self.rules):
            scanner = _scanner(number, rule, policy)
            if scanner is not None:
                self._scanners.append(scanner)

    def judge(self, candidates: Sequence[Candidate], memory: FloodMemory) -> list[Verdict]:
        """Return one verdict for each candidate, in their order; the external moderator is not asked."""
        memory.begin()
        verdicts: list[Verdict] = []
        for start in range(0, len(candidates), CHUNK):
            verdicts += self._judge_chunk(candidates[start : start + CHUNK], memory)
        return verdicts

    def _judge_chunk(self, candidates: Sequence[Candidate], memory: FloodMemory) -> list[Verdict]:
        batch = Batch(candidates)
        found: dict[int, list[tuple[int, Finding]]] = {}
        for scanner in self._scanners:
            for number, finding in scanner.scan(batch, memory):
                found.setdefault(finding.message, []).append((number, finding))
        allow = Action.ALLOW
        verdicts = [Verdict(allow, text) for text in batch.texts]
        for message, findings in found.items():
            verdicts[message] = self._verdict(batch.texts[message], findings)
        return verdicts

    def _verdict(self, text: str, findings: list[tuple[int, Finding]]) -> Verdict:
        if len(findings) == 1:
            number, finding = findings[0]
            hit = self._hit(number, finding.detail)
            return Verdict(hit.action, mask(text, finding.spans) if finding.spans else text, (hit,))
        findings.sort(key=lambda item: item[0])
        hits = tuple([self._hit(number, finding.detail) for number, finding in findings])
        action = max((hit.action for hit in hits), key=STRICTNESS.__getitem__)
        spans = [span for _, finding in findings for span in finding.spans]
        return Verdict(action, mask(text, spans) if spans else text, hits)

    def _make_hit(self, number: int, detail: str) -> Hit:
        rule = self.rules[number]
        assert not isinstance(rule, ExternalRule)  # it has no scanner
        return Hit(rule.id, rule.version, rule.action, detail)
