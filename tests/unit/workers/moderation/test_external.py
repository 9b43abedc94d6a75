"""The external moderator, against a real HTTP server that answers, hangs, breaks or is not there."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette

from ticketwire.errors import Unavailable
from workers.moderation.breaker import CircuitBreaker
from workers.moderation.chain import Chain, ExternalModerators, FixedRules
from workers.moderation.external import ExternalModerator
from workers.moderation.policy import ExternalRule, PolicyDocument
from workers.moderation.policy import Policy as PolicyOf
from workers.moderation.rules import RuleSet
from workers.moderation.verdict import Action, Candidate

EXAMPLE = Path(__file__).parents[4] / "examples" / "moderator" / "moderator.py"


def load_example() -> Any:
    spec = importlib.util.spec_from_file_location("moderator_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Served:
    """The reference moderator on a port of its own."""

    def __init__(self, app: Starlette, port: int) -> None:
        self.app = app
        self.url = f"http://127.0.0.1:{port}/v1/analyze"


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    app = load_example().create_app()
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, lifespan="off", ws="none", log_level="error", timeout_graceful_shutdown=1)
    )
    task = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started:
        await asyncio.sleep(0.01)
    yield Served(app, listening.getsockname()[1])
    server.should_exit = server.force_exit = True
    await task
    listening.close()


def rule(url: str, **settings: Any) -> ExternalRule:
    attributes = {"TOXICITY": {"hold": 0.4, "reject": 0.8}, "THREAT": {"hold": 0.4}}
    values = {"kind": "external", "id": "ext", "version": 2, "url": url, "attributes": attributes, "deadline_ms": 2_000}
    return ExternalRule.model_validate({**values, **settings})


def candidate(text: str) -> Candidate:
    return Candidate("t", "s", text, 0)


async def ask(moderator: ExternalModerator, text: str) -> tuple[Action, str] | None:
    hit = await moderator.ask(candidate(text), text)
    return (hit.action, hit.detail) if hit else None


@pytest.fixture
async def moderator(served: Served) -> AsyncIterator[ExternalModerator]:
    moderator = ExternalModerator(rule(served.url))
    yield moderator
    await moderator.aclose()


async def test_scores_become_actions_by_the_thresholds(moderator: ExternalModerator) -> None:
    assert await ask(moderator, "hello") is None
    assert await ask(moderator, "you stupid thing") == (Action.HOLD, "TOXICITY 0.45")
    assert await ask(moderator, "stupid pathetic thing") == (Action.REJECT, "TOXICITY 0.90")
    assert await ask(moderator, "i hurt you") == (Action.HOLD, "THREAT 0.45")


async def test_the_same_text_is_asked_about_once(moderator: ExternalModerator) -> None:
    for _ in range(3):
        await ask(moderator, "you stupid thing")
    assert (moderator.counters.requests, moderator.counters.cached) == (1, 2)


@pytest.mark.parametrize("mode", ["slow", "broken", "garbage"])
@pytest.mark.parametrize(("on_failure", "action"), [("open", None), ("closed", Action.REJECT), ("hold", Action.HOLD)])
async def test_without_an_answer_the_policy_decides_before_the_deadline(
    served: Served, mode: str, on_failure: str, action: Action | None
) -> None:
    served.app.state.mode = mode
    moderator = ExternalModerator(rule(served.url, on_failure=on_failure, deadline_ms=300))
    started = time.monotonic()
    answer = await ask(moderator, "hello")
    assert time.monotonic() - started < 1.5
    assert (answer[0] if answer else None) is action
    await moderator.aclose()


async def test_a_dead_moderator_with_wait_raises_unavailable() -> None:
    moderator = ExternalModerator(rule("http://127.0.0.1:9/v1/analyze", on_failure="wait", deadline_ms=300))
    with pytest.raises(Unavailable):
        await ask(moderator, "hello")
    await moderator.aclose()


async def test_what_may_pass_is_tried_again_and_what_may_not_is_not(served: Served) -> None:
    served.app.state.mode = "broken"
    moderator = ExternalModerator(rule(served.url, attempts=3))
    await ask(moderator, "hello")
    assert moderator.counters.requests == 3, "a status of 500 may be over in a moment"
    served.app.state.mode = "garbage"
    await ask(moderator, "hello again")
    assert moderator.counters.requests == 4, "an answer of another shape will not change"
    await moderator.aclose()


async def test_the_breaker_leaves_a_broken_moderator_alone_and_finds_it_mended(served: Served) -> None:
    served.app.state.mode = "broken"
    moderator = ExternalModerator(rule(served.url, attempts=1, breaker_failures=2, breaker_seconds=0.2))
    for number in range(6):
        assert await ask(moderator, f"hello {number}") == (
            Action.HOLD,
            "no answer: status 500" if number < 2 else "no answer: breaker open",
        )
    assert (moderator.counters.requests, moderator.counters.refused) == (2, 4)
    served.app.state.mode = ""
    await asyncio.sleep(0.25)
    assert await ask(moderator, "hello") is None
    assert not moderator.breaker.open
    await moderator.aclose()


def chain_of(external: ExternalRule, moderators: ExternalModerators) -> Chain:
    document = PolicyDocument.model_validate(
        {
            "rules": [
                {"id": "pii", "kind": "personal_data", "action": "mask"},
                {"id": "no", "kind": "terms", "action": "reject", "terms": ["forbidden"]},
                external.model_dump(),
            ]
        }
    )
    return Chain(FixedRules(RuleSet(PolicyOf(document, {}, {}, "digest"))), external=moderators)


async def test_the_moderator_sees_masked_text_and_only_what_would_be_shown(served: Served) -> None:
    seen: list[str] = []
    module = load_example()
    moderators = ExternalModerators()
    original = module.score
    chain = chain_of(rule(served.url), moderators)
    current = moderators.for_rule(chain.source.rules.external)  # type: ignore[arg-type]
    fetch = current._fetch

    async def record(text: str) -> dict[str, float]:
        seen.append(text)
        return await fetch(text)

    current._fetch = record  # type: ignore[method-assign]
    verdicts = await chain.judge([candidate("stupid a@b.com"), candidate("forbidden stupid"), candidate("fine")])
    assert [verdict.action.value for verdict in verdicts] == ["hold", "reject", "allow"]
    assert sorted(seen) == ["fine", "stupid [email]"]
    assert [(hit.rule, hit.version) for hit in verdicts[0].hits] == [("pii", 1), ("ext", 2)]
    assert original is module.score
    await moderators.aclose()


async def test_a_hanging_moderator_delays_a_batch_by_one_deadline_not_by_many(served: Served) -> None:
    """Fifty messages need it and none waits for another: that is what bounds the partition's delay."""
    served.app.state.mode = "slow"
    moderators = ExternalModerators()
    chain = chain_of(rule(served.url, deadline_ms=400, attempts=1, concurrency=4, breaker_failures=1_000), moderators)
    started = time.monotonic()
    verdicts = await chain.judge([candidate(f"text {n}") for n in range(50)])
    assert time.monotonic() - started < 2
    assert {verdict.action for verdict in verdicts} == {Action.HOLD}
    await moderators.aclose()


async def test_a_changed_rule_makes_a_new_moderator_and_an_equal_one_does_not(served: Served) -> None:
    moderators = ExternalModerators()
    first = moderators.for_rule(rule(served.url))
    assert moderators.for_rule(rule(served.url)) is first
    assert moderators.for_rule(rule(served.url, deadline_ms=500)) is not first
    await moderators.aclose()


def test_an_open_breaker_lets_one_try_through_at_a_time() -> None:
    breaker = CircuitBreaker(failures=2, seconds=10)
    for _ in range(2):
        assert breaker.allows(0)
        breaker.failed(0)
    assert breaker.open
    assert not breaker.allows(9.9)
    assert breaker.allows(10)
    assert not breaker.allows(10), "one try is under way"
    breaker.failed(10)
    assert not breaker.allows(19)
    assert breaker.allows(20)
    breaker.succeeded()
    assert breaker.allows(20)
    assert not breaker.open
