"""`ticketwire admin` makes the same calls, prints tables or JSON, and ends with a code that scripts can use."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.integration.admin.harness import KEY, Api, Core, bury_some, letter_of
from tests.pipeline import drained, submit, working
from ticketwire.cli import main
from workers.settings import WorkerSettings

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _environment(api: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # where no dev.json is
    monkeypatch.setenv("TICKETWIRE_ADMIN_URL", api.url)
    monkeypatch.setenv("TICKETWIRE_ADMIN_KEY", KEY)


async def run(*words: str) -> int:
    """Run `ticketwire admin …` beside the event loop that serves it."""
    return await asyncio.to_thread(main, ["admin", *words])


async def test_dead_letters_from_list_to_purge(core: Core, settings: WorkerSettings, capsys: Capture) -> None:
    await bury_some(core[0], 2, 2)
    async with working(core, settings):
        await drained(core[0])
    poison = await letter_of(core[0], "T9", "hello")
    assert await run("dead", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ID", "BURIED", "TICKET", "REASON", "STAGE", "ATTEMPTS", "ERROR"]
    assert {line.index("unknown_version") for line in lines if "unknown_version" in line} == {lines[0].index("REASON")}
    assert len(lines) == 6
    assert await run("dead", "list", "--limit", "3", "--json") == 0
    page = json.loads(capsys.readouterr().out)
    assert (len(page["letters"]), bool(page["next_cursor"])) == (3, True)
    name = f"{core[0].keys.partition_of('T9'):02d}:{poison}"
    assert await run("dead", "show", name) == 0
    assert "  message = hidden 5" in capsys.readouterr().out
    assert await run("dead", "replay", name, "--dry-run") == 0
    assert "would_send 1" in capsys.readouterr().out
    assert await run("dead", "replay", name, "--why", "fixed", "--as", "bob") == 0
    assert "done, 1 of 1: sent 1" in capsys.readouterr().out
    assert await run("dead", "purge", "--reason", "unknown_version", "--expected", "3", "--why", "spam") == 1
    assert "expected is 3, but the filter matches 4" in capsys.readouterr().err
    assert await run("dead", "purge", "--reason", "unknown_version", "--expected", "4", "--why", "spam") == 0
    assert await run("dead", "list") == 0
    assert capsys.readouterr().out.endswith("no dead letters\n")
    assert await run("audit", "--actor", "bob") == 0
    assert capsys.readouterr().out.count("replay") == 2


async def test_a_slow_replay_is_followed_to_its_end(core: Core, capsys: Capture) -> None:
    for n in range(30):
        await letter_of(core[0], "T1", f"m{n}")
    assert await run("dead", "replay", "--all", "--rate", "10", "--why", "slowly", "--json") == 0
    job = json.loads(capsys.readouterr().out)
    assert (job["state"], job["outcomes"]) == ("done", {"sent": 30})
    assert job["ended_at_ms"] - job["started_at_ms"] > 2_000
    assert await run("job", job["job_id"]) == 0
    assert "done, 30 of 30" in capsys.readouterr().out


async def test_the_system_at_a_glance(core: Core, settings: WorkerSettings, capsys: Capture) -> None:
    entry_id = await submit(core[0], "T1", "m")
    assert await run("scale") == 0
    assert capsys.readouterr().out == "1\n"
    async with working(core, settings) as fleet:
        await drained(core[0])
        assert await run("partitions") == 0
        assert await run("workers") == 0
        assert capsys.readouterr().out.count(fleet.worker) == 5
    assert await run("message", "T1", entry_id) == 0
    out = capsys.readouterr().out
    assert "status      confirmed" in out
    assert [line.split()[0] for line in out.splitlines()[-4:]] == ["accepted", "verdict", "archived", "confirmed"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["message", "T1", "1-0"], "ticket T1 has no message 1-0"),
        (["dead", "show", "x"], "id: 'x' is no dead letter's id"),
        (["dead", "list", "--reason", "bad"], "reason is 'bad', allowed:"),
        (["dead", "replay", "--all"], "why is missing"),
        (["job", "../scale"], "there is no"),
        (["scale", "--key", "wrong"], "Authorization must be"),
        (["scale", "--url", "http://127.0.0.1:1"], "http://127.0.0.1:1 does not answer"),
    ],
)
async def test_a_refusal_is_one_line_and_code_1(words: list[str], told: str, capsys: Capture) -> None:
    assert await run(*words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ticketwire admin: {told}")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["dead", "replay", "--why", "x"], "or say --all"),
        (["dead", "replay", "00:1-0", "--all", "--why", "x"], "or say --all"),
        (["dead", "purge", "--all", "--why", "x"], "--expected"),
        (["dead", "list", "--limit", "0"], "found '0', allowed is a whole number from 1"),
        (["dance"], "invalid choice"),
    ],
)
async def test_wrong_arguments_are_told_with_code_2(words: list[str], told: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        await run(*words)
    assert caught.value.code == 2
    assert told in capsys.readouterr().err


async def test_without_a_key_it_says_where_to_put_one_unless_dev_has_told(
    api: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    monkeypatch.delenv("TICKETWIRE_ADMIN_KEY")
    assert await run("scale") == 2
    assert "set TICKETWIRE_ADMIN_KEY" in capsys.readouterr().err
    monkeypatch.delenv("TICKETWIRE_ADMIN_URL")
    (tmp_path / ".ticketwire").mkdir()
    (tmp_path / ".ticketwire/dev.json").write_text(json.dumps({"urls": {"admin": api.url}, "admin_key": KEY}))
    assert await run("scale") == 0
    assert await run("scale", "--url", "http://127.0.0.1:1") == 2, "dev's key goes to dev alone"
