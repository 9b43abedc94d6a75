"""What `make bench-delivery` says of its figures."""

from __future__ import annotations

from bench.delivery.scenarios import with_totals, wrong
from bench.delivery.table import NOT_ASKED, report

EXACT = {"delivered": 10.0, "expected": 10.0, "wrong_sockets": 0.0, "closed": 0.0}


def rooms(server: float, redis: float, p99: float) -> dict[str, float]:
    return dict(with_totals({**EXACT, "server_us": server, "redis_us": redis, "p99": p99}))


def test_an_aim_is_judged_by_the_medians_of_all_rounds() -> None:
    """One slow round of three decides nothing; Redis's CPU counts where the aim says so."""
    results = {
        ("rooms", "socketio-redis"): [rooms(150, 50, 2), rooms(900, 50, 2), rooms(150, 50, 2)],
        ("rooms", "ticketwire-v1"): [rooms(60, 40, 3), rooms(80, 40, 3), rooms(70, 40, 3)],
    }
    text = report(results, {("rooms", "ticketwire"): NOT_ASKED}, ["rooms"])
    cpu, tail = (line for line in text.splitlines() if line.startswith("| rooms, ticketwire-v1:"))
    assert cpu.endswith(" | 110.0 (100.0–120.0) | socketio-redis 200.0 | 0.55 x | ≤ 0.6 x | met |")
    assert tail.endswith(" | 3.00 (3.00–3.00) | socketio-redis 2.00 | 1.50 x | ≤ 1 x | **missed** |")
    assert "ticketwire:" not in text


def test_a_row_without_valid_rounds_says_why() -> None:
    """Who is absent or lost a message has no ratio: neither met nor missed."""
    reasons = {
        ("saturated", "nchan"): "no nginx: apt install nginx-light libnginx-mod-nchan",
        ("saturated", "ticketwire"): "invalid: 9 deliveries, 10 expected",
    }
    text = report({("saturated", "ticketwire"): [{**EXACT, "per_s": 5.0}]}, reasons, ["saturated"])
    row = next(line for line in text.splitlines() if line.startswith("| saturated, ticketwire:"))
    assert "invalid: 9 deliveries" in row
    assert "no nginx: apt install" in row
    assert "met" not in row
    assert "missed" not in row


def test_a_lost_message_is_not_made_up_for_by_a_repeated_one() -> None:
    """The count may be right and the sockets' messages still be others than were published."""
    assert wrong(EXACT) == ""
    assert "2 sockets got something else" in wrong({**EXACT, "wrong_sockets": 2.0})
    assert wrong({**EXACT, "closed": 1.0}) == "1 sockets were closed"
    assert wrong({**EXACT, "server_us": 0.0}) == "the server's CPU was not counted"
