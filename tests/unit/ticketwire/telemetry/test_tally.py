"""Cheap metrics show what prometheus_client's own would."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from ticketwire.telemetry.tally import Durations, Tally

BUCKETS = (0.001, 0.0025, 0.1, 1, 10)


def exposed(registry: CollectorRegistry) -> list[str]:
    """What `/metrics` says, without the times of creation."""
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


@given(st.lists(st.one_of(st.floats(0, 20), st.sampled_from(BUCKETS))))
def test_they_are_exposed_like_the_originals(values: list[float]) -> None:
    """Byte for byte: names, types, buckets (a value at a bound belongs to it), sums and counts."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    tally, durations = Tally("x_frames", "Frames", ours), Durations("x_seconds", "Seconds", BUCKETS, ours)
    counter = Counter("x_frames", "Frames", registry=theirs)
    histogram = Histogram("x_seconds", "Seconds", buckets=BUCKETS, registry=theirs)
    for value in values:
        tally.inc(int(value))
        counter.inc(int(value))
        durations.observe(value)
        histogram.observe(value)
    assert exposed(ours) == exposed(theirs)
