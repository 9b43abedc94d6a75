"""How much memory this process uses, and above which mark its node takes nobody new. Linux: /proc and cgroups."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

REOPEN = 0.9  # of the mark: below it the door opens again, so that it does not open and close with every socket
_UNITS = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "K": 10**3, "M": 10**6, "G": 10**9}
_LIMIT = re.compile(r"(\d{1,3})%|(\d{1,18})(Ki|Mi|Gi|K|M|G)?", re.ASCII)
_PAGE = os.sysconf("SC_PAGE_SIZE")


def parse_limit(text: str) -> int | float:
    """Read `80%` as a float, a share of the container's limit; `1500000000`, `512Mi`, `2G` as bytes; 0: none.

    Raises ValueError.
    """
    found = _LIMIT.fullmatch(text.strip())
    if found is None or (found[1] is not None and not 1 <= int(found[1]) <= 100):
        raise ValueError("must be a share of the container's limit, 1% to 100%, or bytes, such as 512Mi; 0 for none")
    if found[1] is not None:
        return int(found[1]) / 100
    return int(found[2]) * _UNITS[found[3] or ""]


def mark_bytes(text: str, container: int | None) -> int:
    """Return the mark that *text* sets in a container limited to *container* bytes; 0: none."""
    limit = parse_limit(text)
    if isinstance(limit, int):
        return limit
    return int(limit * container) if container is not None else 0


@dataclass(slots=True)
class Door:
    """Open until memory passes the mark, shut until it is well below. No I/O."""

    mark: int  # bytes; 0: none
    shut: bool = False

    def note(self, used: int) -> bool:
        """Say whether the door is shut with *used* bytes in use."""
        self.shut = bool(self.mark) and used > self.mark * (REOPEN if self.shut else 1.0)
        return self.shut


def resident_bytes() -> int:
    """Memory of this process in RAM."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE


def give_back() -> None:
    """Return freed memory to the system. glibc keeps it otherwise, and what left would count for ever."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
    if trim is not None:
        trim(0)


def container_limit() -> int | None:
    """Return the least limit of the cgroups (version 1 or 2) this process is in, in bytes; None: there is none."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return least_limit(_read(path) for path in limit_files(lines))


def limit_files(lines: Iterable[str]) -> Iterator[Path]:
    """Name the files that may hold a limit, for the *lines* of /proc/self/cgroup: of the cgroup and all above it.

    In a container the cgroup's own path may not be visible, but the root that is mounted there is its own.
    """
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, name = Path("/sys/fs/cgroup"), "memory.max"
        elif "memory" in controllers.split(","):
            root, name = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        else:
            continue
        here = Path(path.lstrip("/"))
        for folder in (here, *here.parents):
            yield root / folder / name


def least_limit(texts: Iterable[str]) -> int | None:
    """Return the least of the numbers; `max` and version 1's huge number mean none."""
    limits = [int(text) for text in texts if text.isdecimal()]
    return min((limit for limit in limits if limit < 2**60), default=None)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
