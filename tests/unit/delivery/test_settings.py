"""Settings, parameters and the pace of plain clients."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.parameters import check_origin, limit, seconds
from delivery.plain import allow
from delivery.settings import DeliverySettings
from ticketwire.errors import Rejected, SettingsError
from ticketwire.settings import load


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKETWIRE_REDIS_URL", "redis://localhost")
    monkeypatch.setenv("TICKETWIRE_DATABASE_URL", "postgresql://localhost/x")
    monkeypatch.setenv("TICKETWIRE_AUTH", "off")


@pytest.mark.parametrize(
    "text", ["https://a.example http://b.example", "https://a.example,http://b.example", '["https://a.example","http://b.example"]']
)  # fmt: skip
def test_origins_are_a_list_of_words(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """As people write lists in the environment."""
    monkeypatch.setenv("DELIVERY_ORIGINS", text)
    assert load(DeliverySettings).origins == ("https://a.example", "http://b.example")


@pytest.mark.parametrize("value", ["201", "00000000001", "0000000001999999999", "9" * 5_000, "-1", "1e1", "٣", ""])
def test_numbers_are_bounded_however_they_are_written(value: str) -> None:
    """Only the first ten digits were once compared, so that zeros in front let a page of any size through."""
    with pytest.raises(Rejected) as refused:
        limit(value, 50, 200)
    assert refused.value.detail == f"limit is {value[:60]!r}, allowed: 1 to 200"
    with pytest.raises(Rejected) as refused:
        seconds("wait", value, 60)
    assert refused.value.detail == f"wait is {value[:60]!r}, allowed: 0 to 60 seconds"


def test_numbers_within_their_bounds_are_read() -> None:
    """Both bounds belong to them; what was not given has a default, which is bounded too."""
    assert [limit(value, 50, 200) for value in ("1", "200", "0000000007", None)] == [1, 200, 7, 50]
    assert limit(None, 50, 20) == 20
    assert [seconds("wait", value, 60) for value in ("0", "60", None)] == [0, 60, 0]


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        (
            "DELIVERY_PONG_SECONDS",
            "25",
            "DELIVERY_PONG_SECONDS is 25, must be at most 24, as DELIVERY_PING_SECONDS is 25",
        ),
        ("DELIVERY_SEND_MARK_BYTES", "2000000", "must not exceed DELIVERY_SEND_BUFFER_BYTES, which is 1048576"),
        ("DELIVERY_CANARY_SECONDS", "9", "must be more than DELIVERY_CANARY_SECONDS, which is 9"),
        ("DELIVERY_COALESCE_MS", "26", "DELIVERY_COALESCE_MS is '26': Input should be less than or equal to 25"),
        ("DELIVERY_COALESCE_MS", "-1", "DELIVERY_COALESCE_MS is '-1': Input should be greater than or equal to 0"),
        ("DELIVERY_MEMORY_LIMIT", "lots", "DELIVERY_MEMORY_LIMIT is 'lots': must be a share of the container's limit"),
        ("DELIVERY_MAX_SOCKETS", "0", "DELIVERY_MAX_SOCKETS is '0'"),
        ("DELIVERY_ORIGINS", "[broken", "DELIVERY_ORIGINS is '[broken'"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, sentence: str) -> None:
    """With the value and what is allowed."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as wrong:
        load(DeliverySettings)
    assert sentence in wrong.value.detail


@pytest.mark.parametrize(
    ("origin", "host", "allowed", "passes"),
    [
        (None, "chat.example", (), True),
        ("https://chat.example", "chat.example", (), True),
        ("https://CHAT.example:8443", "chat.example:8443", (), True),
        ("http://chat.example:3000", "chat.example:8080", (), False),
        ("http://chat.example:3000", "chat.example:8080", ("http://chat.example:3000",), True),
        ("https://evil.example", "chat.example", ("https://chat.example.evil",), False),
        ("null", "null", (), False),
        ("null", "chat.example", ("*",), True),
        ("", "", (), True),
    ],
)
def test_origins(origin: str | None, host: str, allowed: tuple[str, ...], passes: bool) -> None:
    """This host's own pages, those on the list, and programs, which send none."""
    headers = {"host": host, **({} if origin is None else {"origin": origin})}
    if passes:
        check_origin(headers, allowed)
    else:
        with pytest.raises(Rejected, match="Origin is"):
            check_origin(headers, allowed)


@given(st.lists(st.floats(0, 30), max_size=200), st.integers(1, 100))
def test_no_minute_has_more_than_its_share_twice(gaps: list[float], per_minute: int) -> None:
    """A burst of a whole share at once is fine; over any minute at most two shares pass, and a slow sender always."""
    now = allowed_at = 0.0
    passed: list[float] = []
    for gap in gaps:
        now += gap
        result = allow(allowed_at, now, per_minute)
        if result is not None:
            allowed_at = result
            passed.append(now)
        assert result is not None or gap < 60 / per_minute or len(passed) >= 1
    for start in passed:
        assert sum(start <= at < start + 60 for at in passed) <= 2 * per_minute + 1
