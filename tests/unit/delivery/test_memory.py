"""Memory marks: how they are written, where a container's limit stands, when the door shuts and opens."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.memory import REOPEN, Door, least_limit, limit_files, mark_bytes, parse_limit, resident_bytes

GIB = 2**30


@pytest.mark.parametrize(
    ("text", "container", "mark"),
    [
        ("0", GIB, 0),
        ("80%", 1_000, 800),
        ("100%", GIB, GIB),
        ("80%", None, 0),
        ("1500000000", None, 1_500_000_000),
        ("512Mi", GIB, 512 * 2**20),
        (" 2G ", None, 2 * 10**9),
    ],
)
def test_a_mark_is_bytes_or_a_share_of_the_container(text: str, container: int | None, mark: int) -> None:
    """A share of nothing is no mark: outside of containers there is no limit to be a share of."""
    assert mark_bytes(text, container) == mark


@pytest.mark.parametrize("text", ["", "0%", "101%", "80 %", "0.8", "-1", "1T", "lots", "٣", "1" * 30])
def test_what_is_no_mark_is_refused_with_what_is(text: str) -> None:
    """One sentence with all three ways to write one."""
    with pytest.raises(ValueError, match="share of the container's limit, 1% to 100%, or bytes"):
        parse_limit(text)


def test_a_limit_is_looked_for_in_every_cgroup_above() -> None:
    """Version 2 and 1, and the root, which is the container's own where its path is hidden."""
    two = list(limit_files(["0::/kubepods/pod7"]))
    assert two == [Path("/sys/fs/cgroup", part, "memory.max") for part in ("kubepods/pod7", "kubepods", ".")]
    one = list(limit_files(["5:cpu,cpuacct:/a", "4:memory:/a"]))
    assert one == [Path("/sys/fs/cgroup/memory", part, "memory.limit_in_bytes") for part in ("a", ".")]


def test_the_least_limit_counts() -> None:
    """`max`, files that are not there and version 1's way to say none are no limits."""
    assert least_limit(["max", "", "9223372036854771712", "2000", "1000"]) == 1_000
    assert least_limit(["max", "9223372036854771712", ""]) is None


@given(st.lists(st.integers(0, 200)))
def test_the_door_shuts_above_the_mark_and_opens_well_below(uses: list[int]) -> None:
    """In between it stays as it is."""
    door, shut = Door(100), False
    for used in uses:
        shut = used > 100 or (shut and used > 100 * REOPEN)
        assert door.note(used) is shut


def test_without_a_mark_the_door_is_open() -> None:
    """Whatever is used."""
    assert not Door(0).note(2**50)


def test_resident_memory_is_that_of_the_kernel() -> None:
    """The same number as VmRSS, give or take what was allocated in between."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    assert abs(resident_bytes() - kib * 1024) < 2**22
