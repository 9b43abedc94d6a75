"""What a process used, from /proc, and how busy everything else was."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of *pid* and all its living descendants; 0 when it is gone."""
    total = 0.0
    for each in tree(pid):
        try:
            stat = Path(f"/proc/{each}/stat").read_text(encoding="utf-8")
        except (FileNotFoundError, ProcessLookupError):
            continue
        fields = stat.rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total


def tree(pid: int) -> list[int]:
    """*pid* and its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in task.read_text(encoding="utf-8").split():
                found += tree(int(child))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def percentile(values: list[float], share: float) -> float:
    """The value below which *share* of the sorted *values* lie."""
    return values[min(len(values) - 1, int(len(values) * share))]
