"""The moderator that a worker uses: the rules of the policy in force, then the external moderator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from workers.moderation.external import ExternalModerator
from workers.moderation.flood import FloodMemory
from workers.moderation.policy import ExternalRule
from workers.moderation.rules import STRICTNESS, RuleSet, in_scope
from workers.moderation.verdict import Action, Candidate, Hit, Verdict

# Judged at once by `verdicts`.
STEP = 256


class RuleSource(Protocol):
    """Where the rules in force are: a `PolicyFile`, or anything with `rules`."""

    @property
    def rules(self) -> RuleSet: ...


@dataclass(frozen=True, slots=True)
class FixedRules:
    """Rules that never change."""

    rules: RuleSet


@dataclass(slots=True)
class Chain:
    """One partition's moderator. *memory* is the partition's own; *source* and *external* are the process's.

    The rules are taken from *source* once for each batch, so that a reload applies from the next batch on.
    """

    source: RuleSource
    memory: FloodMemory = field(default_factory=FloodMemory)
    external: ExternalModerators | None = None

    async def judge(self, batch: Sequence[Candidate]) -> list[Verdict]:
        """Return one verdict for each candidate, in the same order.

        The external moderator sees texts masked, and only those that would be shown otherwise. All of
        a batch are asked about at once: it takes no longer than the policy's deadline. Raises
        `Unavailable` if no answer came and the policy says to wait; judging the batch again is safe.
        """
        rules = self.source.rules
        verdicts = rules.judge(batch, self.memory)
        if rules.external is None or self.external is None:
            return verdicts
        asked = [
            place
            for place, candidate in enumerate(batch)
            if STRICTNESS[verdicts[place].action] < STRICTNESS[Action.HOLD]
            and len(verdicts[place].text) >= rules.external.min_characters
            and in_scope(rules.external.scope, candidate)
        ]
        moderator = self.external.for_rule(rules.external)
        answers = await asyncio.gather(
            *(moderator.ask(batch[place], verdicts[place].text) for place in asked), return_exceptions=True
        )
        for place, answer in zip(asked, answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            if answer is not None:
                verdicts[place] = with_hit(verdicts[place], answer)
        return verdicts


def with_hit(verdict: Verdict, hit: Hit) -> Verdict:
    """Return *verdict* with the hit of a rule that looked at the whole text."""
    action = max(verdict.action, hit.action, key=STRICTNESS.__getitem__)
    text = "[removed]" if hit.action is Action.MASK else verdict.text
    return Verdict(action, text, (*verdict.hits, hit))


class ExternalModerators:
    """The external moderator of a process: made anew when the policy's rule about it changes."""

    def __init__(self) -> None:
        self._rule: ExternalRule | None = None
        self._moderator: ExternalModerator | None = None
        self._retired: list[ExternalModerator] = []

    def for_rule(self, rule: ExternalRule) -> ExternalModerator:
        """Return the moderator for *rule*, with the connections, cache and breaker it has so far."""
        if self._moderator is None or rule != self._rule:
            if self._moderator is not None:
                self._retired.append(self._moderator)
            self._moderator, self._rule = ExternalModerator(rule), rule
        return self._moderator

    @property
    def current(self) -> ExternalModerator | None:
        """The moderator in use, for its counters."""
        return self._moderator

    async def aclose(self) -> None:
        """Close all connections; may be called more than once."""
        moderators = [*self._retired, *([self._moderator] if self._moderator else [])]
        self._retired, self._moderator, self._rule = [], None, None
        for moderator in moderators:
            await moderator.aclose()


@asynccontextmanager
async def external_moderators() -> AsyncIterator[ExternalModerators]:
    """Provide the `ExternalModerators` of a process and close them at the end."""
    moderators = ExternalModerators()
    try:
        yield moderators
    finally:
        await moderators.aclose()


def verdicts(
    rules: RuleSet, candidates: Iterable[Candidate], memory: FloodMemory | None = None
) -> Iterator[tuple[Candidate, Verdict]]:
    """Judge any number of candidates in their order, without the external moderator: a dry run."""
    memory = memory or FloodMemory()
    source = iter(candidates)
    while batch := list(islice(source, STEP)):
        yield from zip(batch, rules.judge(batch, memory), strict=True)
