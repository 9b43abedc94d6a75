"""The command line, as people and manifests call it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from ticketwire.cli import main, settings_markdown

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's own settings must not reach these tests."""
    for name in list(os.environ):
        if name.startswith(("TICKETWIRE_", "INGEST_", "WORKER_", "DELIVERY_")):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("command", ["ingest", "worker", "delivery"])
def test_a_tier_without_settings_stops_with_one_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It names every variable that must be set; exit code 2."""
    assert main([command]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ticketwire {command}: TICKETWIRE_REDIS_URL is not set")
    assert "TICKETWIRE_DATABASE_URL is not set" in line
    assert "TICKETWIRE_AUTH is not set (off)" in line


@pytest.mark.parametrize(("module", "name"), [("ingest", "ingest"), ("workers", "worker"), ("delivery", "delivery")])
def test_a_tier_is_also_a_module(module: str, name: str) -> None:
    """`python -m ingest` is `ticketwire ingest`."""
    done = subprocess.run([sys.executable, "-P", "-m", module], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"ticketwire {name}: TICKETWIRE_REDIS_URL is not set")


def test_migrate_needs_only_the_database(
    bare_postgres_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A migration job has no Redis; running it twice changes nothing."""
    assert main(["migrate"]) == 2
    assert "TICKETWIRE_DATABASE_URL is not set" in capsys.readouterr().err
    monkeypatch.setenv("TICKETWIRE_DATABASE_URL", bare_postgres_url)
    assert main(["migrate"]) == 0
    assert main(["migrate"]) == 0


async def test_a_migrated_database_has_its_tables(postgres_url: str) -> None:
    """What `migrate` promised."""
    connection = await asyncpg.connect(postgres_url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM messages") == 0
    finally:
        await connection.close()


def test_migrate_tells_an_unreachable_database_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1: the job may be tried again."""
    monkeypatch.setenv("TICKETWIRE_DATABASE_URL", "postgresql://nobody:hunter2@127.0.0.1:1/none")
    assert main(["migrate"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ticketwire migrate: ")
    assert "hunter2" not in line


def test_settings_prints_every_variable_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Of all tiers, with default and meaning."""
    assert main(["settings"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.strip().partition("=")[0] for line in lines if line.startswith("  ") and "=" in line.split(" ")[2]]
    assert len(names) == len(set(names))
    for name in ("TICKETWIRE_REDIS_URL", "TICKETWIRE_LEASE_TTL_MS", "INGEST_PORT", "DELIVERY_PORT", "WORKER_BATCH"):
        assert name in names


def test_the_settings_page_is_up_to_date() -> None:
    """`ticketwire settings --markdown > docs/settings.md` after a change of settings."""
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == settings_markdown()


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Naming those that exist."""
    with pytest.raises(SystemExit) as caught:
        main(["serve"])
    assert caught.value.code == 2
    assert "'ingest'" in capsys.readouterr().err


def test_policy_commands_are_the_workers_own(capsys: pytest.CaptureFixture[str]) -> None:
    """They are loaded only when asked for; a message is judged from the command line."""
    assert main(["policy", "try", "--text", "Hello, I need assistance with room 101."]) == 0
    assert "allow" in capsys.readouterr().out
