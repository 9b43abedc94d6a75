"""A tier that follows instructions: `python -m tests.faults.instrumented workers` instead of `python -m workers`.

`FAULT_AT=after_archive:3:kill` sends SIGKILL (`pause`: SIGSTOP) to itself the third time it comes past that point; the
points are named below. `FAULT_POISON=<text>` ends the process as soon as a batch holds a message of this text.
The product knows nothing of this: its methods are wrapped from outside before its `main` is called.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from ticketwire.bus.partition import Entry, Settlement

T = TypeVar("T")

# Point -> (module, class, method): `before_<point>` and `after_<point>` are where an await begins and ends.
WORKER_POINTS = {
    "acquire": ("ticketwire.bus.partition", "Partition", "acquire"),
    "renew": ("ticketwire.bus.partition", "Partition", "renew"),
    "recover": ("ticketwire.bus.partition", "Partition", "recover"),
    "read": ("ticketwire.bus.partition", "Partition", "read"),
    "wait": ("ticketwire.bus.partition", "Partition", "wait"),
    "archive": ("ticketwire.archive.messages", "Archive", "store"),
    "confirm": ("ticketwire.bus.partition", "Partition", "confirm"),
}
INGEST_POINTS = {"accept": ("ticketwire.bus.accept", "Acceptor", "accept")}
DELIVERY_POINTS = {
    "subscribe": ("ticketwire.bus.subscriber", "Subscriber", "subscribe"),
    "page": ("delivery.backlog", "Backlog", "page_after"),
}
POINTS = {"workers": WORKER_POINTS, "ingest": INGEST_POINTS, "delivery": DELIVERY_POINTS}
SIGNALS = {"kill": signal.SIGKILL, "pause": signal.SIGSTOP}
POISONED = 70  # the exit code of a worker that a message killed


def names(module: str) -> list[str]:
    """Every point at which a tier can be told to die or pause."""
    return [f"{when}_{point}" for point in POINTS[module] for when in ("before", "after")]


class Trap:
    """Springs once."""

    def __init__(self, instruction: str) -> None:
        self.point, count, action = instruction.split(":")
        self._left = int(count)
        self._signal = SIGNALS[action]

    def come_past(self, point: str) -> None:
        if point == self.point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), self._signal)


def install(module: str, trap: Trap) -> None:
    """Wrap the method that *trap* waits at."""
    name = trap.point.partition("_")[2]
    home, owner, method = POINTS[module][name]
    kind = getattr(importlib.import_module(home), owner)
    original: Callable[..., Awaitable[T]] = getattr(kind, method)

    async def wrapped(*args: Any, **options: Any) -> T:
        trap.come_past(f"before_{name}")
        result = await original(*args, **options)
        trap.come_past(f"after_{name}")
        return result

    setattr(kind, method, wrapped)


def install_poison(text: str) -> None:
    """Let a message of this *text* kill the worker that handles it."""
    from workers.pipeline import Pipeline

    original = Pipeline.handle

    async def handle(self: Pipeline, entries: Sequence[Entry], now_ms: int) -> list[Settlement]:
        if any(text in entry.fields for entry in entries):
            os._exit(POISONED)
        return await original(self, entries, now_ms)

    Pipeline.handle = handle  # type: ignore[method-assign]


def main() -> int:
    module = sys.argv[1]
    if instruction := os.environ.get("FAULT_AT"):
        install(module, Trap(instruction))
    if text := os.environ.get("FAULT_POISON"):
        install_poison(text)
    code: int = importlib.import_module(f"{module}.__main__").main()
    return code


if __name__ == "__main__":
    sys.exit(main())
