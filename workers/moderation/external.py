"""Ask a moderator by HTTP what it thinks of a text. What is sent and answered: docs/moderation.md."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import httpx
from pydantic import BaseModel, Field
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from ticketwire.errors import Unavailable
from workers.moderation.breaker import CircuitBreaker
from workers.moderation.policy import ExternalRule, Failure
from workers.moderation.verdict import Action, Candidate, Hit

log = logging.getLogger(__name__)

# The other side may be better in a moment: busy, restarting, or behind a proxy that lost it.
_WORTH_RETRYING = frozenset({408, 425, 429, 500, 502, 503, 504})
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.25
# An answer is a few numbers; one that is larger is not the answer to our question.
_MAX_ANSWER_BYTES = 64_000


class _Score(BaseModel):
    value: float = Field(ge=0, le=1, allow_inf_nan=False)


class _AttributeScore(BaseModel):
    summaryScore: _Score  # the name that Perspective gave it


class Answer(BaseModel):
    """What is read of an answer; whatever else it holds is ignored."""

    attributeScores: dict[str, _AttributeScore]


class _Failed(Exception):
    """No usable answer, and asking again would not help."""


class _TryAgain(_Failed):
    """No usable answer, but the next one may be."""


@dataclass(slots=True)
class Counters:
    """What happened so far; only ever grows."""

    asked: int = 0  # texts, whatever became of them
    cached: int = 0
    requests: int = 0  # tries over HTTP
    answered: int = 0
    failed: int = 0  # no usable answer
    late: int = 0  # no answer before the deadline
    refused: int = 0  # not tried, since the breaker was open


class ExternalModerator:
    """The moderator that one policy rule names. All partitions of a process share it.

    *observe* is called with the seconds that each text took which was not in the cache.
    """

    def __init__(self, rule: ExternalRule, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.rule = rule
        self.counters = Counters()
        self.observe: Callable[[float], None] = lambda _seconds: None
        self.breaker = CircuitBreaker(rule.breaker_failures, rule.breaker_seconds)
        self._slots = asyncio.Semaphore(rule.concurrency)
        self._cache: OrderedDict[bytes, dict[str, float]] = OrderedDict()
        self._outage_since: float | None = None
        self._client = httpx.AsyncClient(
            transport=transport,
            # Each try gets its share of the deadline, so that one that hangs leaves time for the next.
            timeout=rule.deadline_ms / 1_000 / rule.attempts,
            limits=httpx.Limits(max_connections=rule.concurrency, max_keepalive_connections=rule.concurrency),
            trust_env=False,  # no proxy and no .netrc of whoever starts the worker
            follow_redirects=False,
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def ask(self, candidate: Candidate, text: str) -> Hit | None:
        """Return what the policy makes of the answer about *text*; None when it passes.

        Takes no longer than the rule's deadline. Raises `Unavailable` if the policy says to wait.
        """
        self.counters.asked += 1
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        scores = self._cache.get(key)
        if scores is not None:
            self._cache.move_to_end(key)
            self.counters.cached += 1
            return self._hit(scores)
        started = time.monotonic()
        if not self.breaker.allows(started):
            self.counters.refused += 1
            return self._no_answer("breaker open")
        try:
            async with asyncio.timeout(self.rule.deadline_ms / 1_000):
                scores = await self._fetch(text)
        except TimeoutError:
            self.counters.late += 1
            return self._failed(f"no answer in {self.rule.deadline_ms} ms")
        except _Failed as exc:
            self.counters.failed += 1
            return self._failed(str(exc))
        except asyncio.CancelledError:
            self.breaker.abandoned()
            raise
        finally:
            self.observe(time.monotonic() - started)
        self._succeeded()
        self._remember(key, scores)
        return self._hit(scores)

    async def _fetch(self, text: str) -> dict[str, float]:
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self.rule.attempts),
            wait=wait_random_exponential(multiplier=_FIRST_PAUSE_S, max=_LONGEST_PAUSE_S),
            retry=retry_if_exception_type(_TryAgain),
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                async with self._slots:
                    return await self._request(text)
        raise AssertionError("tenacity ends with a value or an exception")

    async def _request(self, text: str) -> dict[str, float]:
        self.counters.requests += 1
        body = {
            # What has no UTF-8 form is nothing that a model was trained on either.
            "comment": {"text": text.encode("utf-8", "replace").decode()},
            "requestedAttributes": {name: {} for name in self.rule.attributes},
            "doNotStore": True,
        }
        try:
            response = await self._client.post(self.rule.url, json=body)
        except httpx.TransportError as exc:
            raise _TryAgain(f"{type(exc).__name__}") from exc
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise _Failed(f"{type(exc).__name__}") from exc
        if response.status_code in _WORTH_RETRYING:
            raise _TryAgain(f"status {response.status_code}")
        if response.status_code != 200:
            raise _Failed(f"status {response.status_code}")
        return parse_scores(response.content, self.rule)

    def _remember(self, key: bytes, scores: dict[str, float]) -> None:
        self._cache[key] = scores
        while len(self._cache) > self.rule.cache_entries:
            self._cache.popitem(last=False)

    def _hit(self, scores: dict[str, float]) -> Hit | None:
        worst: tuple[int, str] | None = None
        actions = list(Action)
        for name, threshold in self.rule.attributes.items():
            rank = actions.index(threshold.action(scores[name]))
            if rank and (worst is None or rank > worst[0]):
                worst = rank, f"{name} {scores[name]:.2f}"
        if worst is None:
            return None
        return Hit(self.rule.id, self.rule.version, actions[worst[0]], worst[1])

    def _succeeded(self) -> None:
        self.counters.answered += 1
        self.breaker.succeeded()
        if self._outage_since is not None:
            lasted = time.monotonic() - self._outage_since
            log.warning("external moderator answers again", extra={"rule": self.rule.id, "outage_s": round(lasted, 1)})
            self._outage_since = None

    def _failed(self, reason: str) -> Hit | None:
        now = time.monotonic()
        self.breaker.failed(now)
        if self._outage_since is None:
            self._outage_since = now
            log.warning("external moderator fails", extra={"rule": self.rule.id, "reason": reason})
        return self._no_answer(reason)

    def _no_answer(self, reason: str) -> Hit | None:
        rule = self.rule
        match rule.on_failure:
            case Failure.OPEN:
                return None
            case Failure.HOLD:
                return Hit(rule.id, rule.version, Action.HOLD, f"no answer: {reason}")
            case Failure.CLOSED:
                return Hit(rule.id, rule.version, Action.REJECT, f"no answer: {reason}")
            case Failure.WAIT:
                raise Unavailable(f"external moderator {rule.id}: {reason}")


def parse_scores(content: bytes, rule: ExternalRule) -> dict[str, float]:
    """Return the score of every attribute of *rule*. An answer without one is no answer."""
    if len(content) > _MAX_ANSWER_BYTES:
        raise _Failed(f"answer has {len(content)} bytes, {_MAX_ANSWER_BYTES} allowed")
    try:
        answer = Answer.model_validate_json(content)
    except ValueError as exc:
        raise _Failed("answer has another shape than documented") from exc
    missing = rule.attributes.keys() - answer.attributeScores.keys()
    if missing:
        raise _Failed(f"answer lacks {min(missing)}")
    return {name: answer.attributeScores[name].summaryScore.value for name in rule.attributes}
