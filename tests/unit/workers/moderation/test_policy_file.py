"""Hot reload: a good file takes over at once, a bad one never."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from workers.moderation.chain import Chain
from workers.moderation.policy import PolicyError
from workers.moderation.policy_files import PolicyFile
from workers.moderation.verdict import Action, Candidate

GOOD = "rules:\n  - {{id: words, kind: terms, action: {}, lists: [words.txt]}}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "words.txt").write_text("foo\n")
    path = tmp_path / "policy.yaml"
    path.write_text(GOOD.format("reject"))
    return path


def replace(path: Path, content: str) -> None:
    """Write as editors and Kubernetes do: a new file in the old one's place."""
    new = path.with_suffix(".new")
    new.write_text(content)
    os.replace(new, path)


async def verdict(chain: Chain, text: str) -> Action:
    return (await chain.judge([Candidate("t", "s", text, 0)]))[0].action


async def test_a_changed_file_applies_to_the_next_batch(path: Path) -> None:
    file = PolicyFile(path)
    chain = Chain(file)
    assert await verdict(chain, "foo") is Action.REJECT
    assert not file.poll(), "nothing changed"
    replace(path, GOOD.format("hold"))
    assert file.poll()
    assert await verdict(chain, "foo") is Action.HOLD
    assert (file.reloads, file.failures, file.error) == (1, 0, None)


async def test_a_changed_list_is_noticed_too(path: Path) -> None:
    file = PolicyFile(path)
    replace(path.parent / "words.txt", "bar\n")
    assert file.poll()
    assert await verdict(Chain(file), "foo") is Action.ALLOW
    assert await verdict(Chain(file), "bar") is Action.REJECT


async def test_a_bad_file_keeps_the_old_policy_and_says_where(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[int] = []
    file = PolicyFile(path, on_change=lambda changed: seen.append(changed.failures))
    replace(path, "rules:\n  - {id: words, kind: terms, action: hold, listz: [words.txt]}\n")
    with caplog.at_level(logging.INFO, logger="workers.moderation"):
        assert file.poll()
        assert not file.poll(), "a bad file is tried once, not at every poll"
        assert not file.reload()
    assert await verdict(Chain(file), "foo") is Action.REJECT
    assert file.error is not None
    assert (file.error.line, file.error.column) == (2, 44)
    assert (file.failures, file.reloads, seen) == (2, 0, [1, 2])
    refused = [record for record in caplog.records if record.message == "policy refused"]
    assert len(refused) == 1, "one line when the trouble starts, not one per try"
    assert (refused[0].__dict__["line"], refused[0].__dict__["column"]) == (2, 44)
    replace(path, GOOD.format("mask"))
    assert file.poll()
    assert (file.error, file.reloads) == (None, 1)


async def test_a_file_that_vanishes_and_returns_is_no_outage(path: Path) -> None:
    file = PolicyFile(path)
    path.rename(path.with_suffix(".away"))
    assert file.poll()
    assert file.failures == 1
    assert await verdict(Chain(file), "foo") is Action.REJECT
    path.with_suffix(".away").rename(path)
    assert file.poll()
    assert file.error is None


async def test_a_list_that_was_missing_is_noticed_when_it_comes(path: Path) -> None:
    file = PolicyFile(path)
    words = path.parent / "words.txt"
    words.unlink()
    file.poll()
    assert file.failures == 1
    words.write_text("bar\n")
    assert file.poll()
    assert await verdict(Chain(file), "bar") is Action.REJECT


def test_no_process_starts_with_a_bad_policy(path: Path) -> None:
    path.write_text("rules: 1\n")
    with pytest.raises(PolicyError):
        PolicyFile(path)
