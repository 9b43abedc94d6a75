"""Values as text for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

_BAR = 30  # characters


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Align *rows* under *columns*; columns of nothing but numbers stand to the right."""
    cells = [[cell(value) for value in row] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(columns, *cells, strict=True)]
    right = [bool(rows) and all(_numeric(row[n]) for row in rows) for n in range(len(columns))]
    lines = [
        "  ".join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in ([name.upper().replace("_", " ") for name in columns], *cells)
    ]
    return "\n".join(lines)


def pairs(values: Mapping[str, Any]) -> str:
    """One value a line, its name in front."""
    width = max(map(len, values), default=0)
    return "\n".join(f"{name.ljust(width)}  {cell(value)}".rstrip() for name, value in values.items())


def cell(value: Any) -> str:
    """One value in one line, without anything that could move the cursor."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, list):
        return ",".join(cell(one) for one in value) or "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {cell(one)}" for name, one in value.items()) or "-"
    text = str(value)
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def moment(ms: int | None) -> str | None:
    """Unix milliseconds as UTC."""
    if ms is None:
        return None
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):  # an id given by hand may say anything
        return f"{ms} ms"


def duration(ms: int | None) -> str | None:
    """Milliseconds, as people say it."""
    if ms is None:
        return None
    seconds = ms / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3_600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3_600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def progress(kind: str, done: int, total: int | None, elapsed_s: float) -> str:
    """A bar such as `replay [######----] 60/100, 50/s`."""
    rate = f", {done / elapsed_s:,.0f}/s" if elapsed_s >= 1 else ""
    if not total:
        return f"{kind}: {done:,}{rate}"
    filled = min(_BAR, _BAR * done // total)
    return f"{kind} [{'#' * filled}{'-' * (_BAR - filled)}] {done:,}/{total:,}{rate}"


def _numeric(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
