"""A wrong setting stops the start with one line that names the variable."""

from __future__ import annotations

import pytest

from ingest.settings import IngestSettings
from ticketwire.errors import SettingsError
from ticketwire.settings import load

SHARED = {
    "TICKETWIRE_REDIS_URL": "redis://127.0.0.1:6379",
    "TICKETWIRE_DATABASE_URL": "postgresql://127.0.0.1/x",
    "TICKETWIRE_AUTH": "off",
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SHARED.items():
        monkeypatch.setenv(name, value)


def test_the_names_that_scripts_rely_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Design, section 5."""
    for name, value in {"HOST": "::1", "PORT": "1", "ADMIN_PORT": "2", "INTERNAL_PORT": "3"}.items():
        monkeypatch.setenv(f"INGEST_{name}", value)
    monkeypatch.setenv("INGEST_CORS_ORIGINS", "https://desk.example")
    settings = load(IngestSettings)
    assert (settings.host, settings.port, settings.admin_port, settings.internal_port) == ("::1", 1, 2, 3)
    assert settings.cors_origins == ("https://desk.example",)


def test_every_setting_says_what_it_means() -> None:
    """`ticketwire settings` prints these."""
    assert [
        name for name, field in IngestSettings.model_fields.items() if name != "shared" and not field.description
    ] == []


def test_the_default_limits_hold_the_largest_message() -> None:
    """8,000 characters of four bytes, each percent-encoded as three."""
    assert load(IngestSettings).max_body_bytes > 8_000 * 4 * 3


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("INGEST_PORT", "70000", "INGEST_PORT is '70000'"),
        ("INGEST_MAX_REDIS_MEMORY", "1.5", "INGEST_MAX_REDIS_MEMORY is '1.5'"),
        ("INGEST_LOW_BACKLOG", "100001", "INGEST_LOW_BACKLOG is 100001, above INGEST_MAX_BACKLOG 100000"),
        ("INGEST_LOW_REDIS_MEMORY", "0.9", "INGEST_LOW_REDIS_MEMORY is 0.9, above INGEST_MAX_REDIS_MEMORY 0.85"),
    ],
)
def test_a_wrong_value_is_one_line(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str) -> None:
    """With the value found."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        load(IngestSettings)
    assert words in caught.value.detail
    assert "\n" not in caught.value.detail
