"""A wrong setting stops the start with one line that names it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from ticketwire.errors import SettingsError
from ticketwire.settings import SharedSettings, load, misspelt, variables

GOOD = {
    "TICKETWIRE_REDIS_URL": "redis://localhost:6379/0",
    "TICKETWIRE_DATABASE_URL": "postgresql://u:p@localhost/t",
    "TICKETWIRE_AUTH": "off",
}


class KioskSettings(BaseSettings):
    """A tier's settings, as the real ones are made."""

    model_config = SettingsConfigDict(env_prefix="KIOSK_", frozen=True, extra="ignore")

    shared: SharedSettings = Field(default_factory=SharedSettings)
    port: int = Field(default=8000, ge=0, le=65_535, description="where it listens")
    mode: Literal["a", "b"] = Field(default="a", description="how")
    origins: list[str] = Field(default=[], description="who may call")
    secret: SecretStr | None = Field(default=None, min_length=8, description="nobody sees it")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The developer's own settings must not reach these tests."""
    for name in list(os.environ):
        if name.startswith(("TICKETWIRE_", "KIOSK_")):
            monkeypatch.delenv(name)
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    return iter([monkeypatch])


def test_environment_and_arguments_make_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments win over the environment, the environment over defaults."""
    monkeypatch.setenv("KIOSK_PORT", "1")
    monkeypatch.setenv("TICKETWIRE_PARTITIONS", "64")
    settings = load(KioskSettings, mode="b")
    assert (settings.port, settings.mode, settings.shared.partitions) == (1, "b", 64)
    assert load(KioskSettings, port=2).port == 2


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("KIOSK_PORT", "x", "KIOSK_PORT is 'x': Input should be a valid integer"),
        ("KIOSK_PORT", "65536", "KIOSK_PORT is '65536': Input should be less than or equal to 65535"),
        ("KIOSK_MODE", "c", "KIOSK_MODE is 'c': Input should be 'a' or 'b'"),
        ("KIOSK_ORIGINS", "a,b", 'KIOSK_ORIGINS is \'a,b\': must be JSON, such as ["a", "b"] for a list'),
        ("KIOSK_ORIGINS", "[1]", "KIOSK_ORIGINS[0] is 1: Input should be a valid string"),
        ("KIOSK_SECRET", "hunter2", "KIOSK_SECRET is (secret): "),
        ("TICKETWIRE_PARTITIONS", "0", "TICKETWIRE_PARTITIONS is '0': Input should be greater than or equal to 1"),
        ("TICKETWIRE_DURABILITY", "disk", "TICKETWIRE_DURABILITY is 'disk': Input should be 'redis', 'fsync' or"),
        ("TICKETWIRE_REDIS_URL", "http://u:pw@h", "TICKETWIRE_REDIS_URL is (secret): must start with one of redis://"),
        ("TICKETWIRE_DATABASE_URL", "mysql://h", "TICKETWIRE_DATABASE_URL is (secret): must start with postgresql://"),
        ("TICKETWIRE_AUTH", "", "TICKETWIRE_AUTH is not set (off): "),
    ],
)
def test_one_line_names_variable_value_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str
) -> None:
    """Also for the settings nested in a tier's own, and never with a secret in it."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load(KioskSettings)
    assert caught.value.detail.startswith(line)
    assert "\n" not in caught.value.detail
    assert "hunter2" not in caught.value.detail
    assert "pw" not in caught.value.detail


def test_all_faults_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody wants to find them one restart at a time."""
    monkeypatch.delenv("TICKETWIRE_REDIS_URL")
    monkeypatch.setenv("TICKETWIRE_PARTITIONS", "x")
    monkeypatch.setenv("KIOSK_PORT", "x")
    with pytest.raises(SettingsError) as caught:
        load(KioskSettings)
    named = [part.split(" ")[0] for part in caught.value.detail.split("; ")]
    assert named == ["TICKETWIRE_REDIS_URL", "TICKETWIRE_PARTITIONS", "KIOSK_PORT"]


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifests and compose files pass on variables that nobody filled in."""
    monkeypatch.setenv("KIOSK_PORT", "")
    monkeypatch.setenv("TICKETWIRE_POLICY", "")
    settings = load(KioskSettings)
    assert settings.port == 8000
    assert settings.shared.policy is None


def test_a_secret_may_come_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`…_FILE` is how Kubernetes and Docker hand over secrets; the variable itself wins."""
    (tmp_path / "url").write_text("redis://from-file:1/0\n")
    (tmp_path / "secret").write_text("long enough\n")
    monkeypatch.setenv("TICKETWIRE_REDIS_URL_FILE", str(tmp_path / "url"))
    monkeypatch.setenv("KIOSK_SECRET_FILE", str(tmp_path / "secret"))
    settings = load(KioskSettings)
    assert settings.shared.redis_url.get_secret_value() == GOOD["TICKETWIRE_REDIS_URL"]
    assert settings.secret is not None
    assert settings.secret.get_secret_value() == "long enough"
    monkeypatch.delenv("TICKETWIRE_REDIS_URL")
    assert load(KioskSettings).shared.redis_url.get_secret_value() == "redis://from-file:1/0"


def test_a_secret_file_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not "is not set": the operator did set it."""
    monkeypatch.setenv("KIOSK_SECRET_FILE", str(tmp_path / "gone"))
    with pytest.raises(SettingsError, match=r"KIOSK_SECRET_FILE is '.*gone', which cannot be read: No such file"):
        load(KioskSettings)


def test_a_misspelt_variable_is_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would otherwise silently leave the default in force."""
    monkeypatch.setenv("TICKETWIRE_PARTITION", "64")
    monkeypatch.setenv("KIOSK_SERVICE_HOST", "10.0.0.1")  # Kubernetes, for a Service named kiosk
    assert misspelt(KioskSettings) == ["TICKETWIRE_PARTITION is set but not known: did you mean TICKETWIRE_PARTITIONS?"]


def test_variables_tell_default_and_allowed_values() -> None:
    """What `ticketwire settings` prints."""
    told = {v.name: (v.default, v.allowed) for v in variables(KioskSettings)}
    assert told["TICKETWIRE_REDIS_URL"] == ("(must be set)", "text (secret)")
    assert told["TICKETWIRE_PARTITIONS"] == ("16", "from 1 to 4096")
    assert told["TICKETWIRE_DURABILITY"] == ("redis", "redis, fsync, replica")
    assert told["TICKETWIRE_ALLOW_EVERYTHING_FEED"] == ("false", "true, false")
    assert told["TICKETWIRE_POLICY"] == ("(empty)", "a path")
    assert told["KIOSK_PORT"] == ("8000", "from 0 to 65535")


def test_every_shared_setting_has_a_meaning() -> None:
    """The page of settings is made from these sentences."""
    assert all(variable.meaning for variable in variables(SharedSettings))
