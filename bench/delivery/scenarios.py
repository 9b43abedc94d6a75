"""What is measured, of whom, and what is aimed at. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Result = Mapping[str, float]

OTHERS = ("nchan", "socketio-redis", "centrifugo-redis")
OURS = ("ticketwire", "ticketwire-v1")
V1 = "ticketwire-v1"
UNCOALESCED = f"{V1}-uncoalesced"
DEFLATED = f"{V1}-deflate"


@dataclass(frozen=True)
class Scenario:
    """One kind of load. *arguments* are the generator's (bench/peers/loadgen)."""

    name: str
    title: str
    arguments: Sequence[str]
    peers: Sequence[str]
    columns: Sequence[str]  # keys of a result


LOADED = ("server_us", "redis_us", "p50", "p99", "per_s", "per_read", "bytes", "generator_cores", "other_cores")
BEHIND = ("seconds", "server_peak_mib", "server_us", "generator_cores", "other_cores")
HEADINGS = {
    "server_us": "server CPU, µs a delivery",
    "redis_us": "Redis CPU",
    "total_us": "server + Redis CPU",
    "p50": "p50, ms",
    "p99": "p99, ms",
    "per_s": "deliveries/s",
    "per_read": "deliveries a read",
    "bytes": "bytes a delivery",
    "server_kib": "KiB a socket",
    "seconds": "seconds",
    "server_peak_mib": "peak above idle, MiB",
    "generator_cores": "cores of the generator",
    "other_cores": "of everything else",
}

SCENARIOS = (
    Scenario(
        "fan1000",
        "1,000 sockets of one ticket, 20 messages/s",
        ("-mode=rate", "-sockets=1000", "-rooms=1", "-rate=20"),
        ("floor-send", *OTHERS, *OURS, UNCOALESCED, DEFLATED),
        LOADED,
    ),
    Scenario(
        "saturated",
        "1,000 sockets of one ticket, 16 messages under way at any time",
        ("-mode=saturated", "-sockets=1000", "-rooms=1", "-window=16"),
        (*OTHERS, *OURS),
        LOADED,
    ),
    Scenario(
        "rooms",
        "500 tickets of 2 sockets, 1,000 messages/s",
        ("-mode=rate", "-sockets=1000", "-rooms=500", "-rate=1000"),
        (*OTHERS, *OURS),
        ("server_us", "redis_us", "total_us", *LOADED[2:]),
    ),
    Scenario(
        "busy",
        "1,000 sockets of one ticket, 100 messages/s",
        ("-mode=rate", "-sockets=1000", "-rooms=1", "-rate=100"),
        (V1, UNCOALESCED),
        LOADED,
    ),
    Scenario(
        "idle",
        "5,000 sockets that get nothing",
        ("-mode=idle", "-sockets=5000", "-rooms=1", "-hold=5"),
        OURS,
        ("server_kib",),
    ),
    Scenario(
        "resume",
        "1,000 sockets of one ticket come at once, each 100 messages behind",
        ("-mode=resume", "-sockets=1000", "-rooms=1", "-behind=100", "-dialing=1000"),
        OURS,
        BEHIND,
    ),
    Scenario(
        "resume-rooms",
        "1,000 sockets of 500 tickets come at once, each 100 messages behind",
        ("-mode=resume", "-sockets=1000", "-rooms=500", "-behind=100", "-dialing=1000"),
        OURS,
        BEHIND,
    ),
)


@dataclass(frozen=True)
class Aim:
    """*peer*'s figure is to be at most or at least *limit*, or that many times the figure of *against*.

    Without a limit it is measured because people ask, and nothing is aimed at.
    """

    scenario: str
    peer: str
    figure: str
    sense: Literal["<=", ">="] = "<="
    limit: float | None = None
    against: str = ""

    def verdict(self, value: float) -> str:
        if self.limit is None:
            return ""
        met = value <= self.limit if self.sense == "<=" else value >= self.limit
        return "met" if met else "**missed**"


AIMS = (
    *(
        Aim("fan1000", peer, "server_us", "<=", limit, against)
        for peer in OURS
        for against, limit in (("floor-send", 1.35), ("nchan", 1.0), ("socketio-redis", 0.65))
    ),
    *(
        Aim("saturated", peer, "per_s", ">=", limit, against)
        for peer in OURS
        for against, limit in (("nchan", 4.0), ("socketio-redis", 8.0))
    ),
    *(
        Aim("rooms", peer, figure, "<=", limit, "socketio-redis")
        for peer in OURS
        for figure, limit in (("total_us", 0.6), ("p99", 1.0))
    ),
    Aim("idle", "ticketwire", "server_kib", "<=", 15),
    Aim("idle", V1, "server_kib", "<=", 20),
    *(Aim(run, peer, figure) for run in ("resume", "resume-rooms") for peer in OURS for figure in BEHIND[:2]),
    *(
        Aim(run, V1, figure, against=UNCOALESCED)
        for run in ("fan1000", "busy")
        for figure in ("server_us", "p50", "p99")
    ),
    *(Aim("fan1000", DEFLATED, figure, against=V1) for figure in ("server_us", "bytes", "p99")),
)


def with_totals(result: Result) -> Result:
    """Add what is a sum."""
    if "server_us" not in result:
        return result
    return {**result, "total_us": result["server_us"] + result.get("redis_us", 0.0)}


def wrong(result: Result) -> str:
    """Say what makes a result worthless; nothing if every socket got exactly what was published."""
    if result.get("server_us") == 0:
        return "the server's CPU was not counted"
    if result.get("wrong_sockets"):
        return (
            f"{result['delivered']:,.0f} deliveries, {result['expected']:,.0f} expected; "
            f"{result['wrong_sockets']:.0f} sockets got something else than was published"
        )
    return f"{result['closed']:.0f} sockets were closed" if result["closed"] else ""
