"""What an embedded Redis and an embedded PostgreSQL have in common.

They listen on 127.0.0.1 only and die with the process that started them, even when that one is killed
with SIGKILL (Linux; elsewhere only an ordered end stops them).
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict

from ticketwire.errors import Unavailable

START_SECONDS = 30.0  # a Redis with a large AOF, or a PostgreSQL after a crash, first reads its files
STOP_SECONDS = 10.0
_POLL_SECONDS = 0.01
# Below Linux's range for outgoing connections (32768 and up), so that no connection takes the port
# between our look and the server's bind.
_PORTS = range(20_000, 32_000)

Account = tuple[int, int]  # user id, group id


class _RunAs(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


_PR_SET_PDEATHSIG = 1  # prctl(2)
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def free_port(host: str = "127.0.0.1") -> int:
    """Find a TCP port of *host* that nobody listens on at this moment."""
    for port in random.sample(_PORTS, k=200):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise Unavailable(f"no free port on {host}: tried 200 between {_PORTS.start} and {_PORTS.stop}")


def die_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """Make a `preexec_fn`: the kernel sends *number* to the child when the thread that started it ends.

    So start such children from the main thread. None where the system has no such thing.
    """
    if _LIBC is None:
        return None
    parent, libc = os.getpid(), _LIBC

    def in_child() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:  # it died between fork and prctl
            os._exit(1)

    return in_child


class EmbeddedServer(ABC):
    """One server process. `with` starts it, waits until it answers, and stops it.

    The steps are public as well, for whoever must not block: `prepare` and `wait_ready` may run in
    a thread; `launch` belongs to the main thread (see `die_with_parent`).
    """

    name: str
    stop_signal: signal.Signals  # the orderly, quick end

    def __init__(self, folder: Path, *, port: int = 0) -> None:
        """*folder* keeps the data and is made when missing. Port 0 means a free one, chosen now."""
        self.folder = folder.absolute()
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients find it."""

    @property
    def pid(self) -> int:
        if self.process is None:
            raise Unavailable(f"{self.name} was not started")
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @abstractmethod
    def prepare(self) -> None:
        """Write configuration and, the first time, make the data folder. Takes up to seconds."""

    @abstractmethod
    def launch(self) -> None:
        """Start the process; it does not answer yet."""

    @abstractmethod
    def _answers(self) -> bool:
        """Say whether clients are served by now."""

    def _spawn(self, argv: Sequence[str | Path], account: Account | None = None) -> None:
        if self.alive:
            raise Unavailable(f"{self.name} runs already, as process {self.pid}")
        try:
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    [str(part) for part in argv],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    **run_as(account),
                    # Ctrl-C in a terminal reaches the whole process group, but the servers must outlive
                    # their clients' drain.
                    start_new_session=True,
                    preexec_fn=die_with_parent(self.stop_signal),
                )
        except (OSError, subprocess.SubprocessError) as exc:
            raise Unavailable(f"{self.name} cannot be started: {exc}") from exc

    def wait_ready(self, timeout_s: float = START_SECONDS) -> None:
        """Return once it answers. Raises Unavailable, quoting its log, when it ends or is too slow."""
        deadline = time.monotonic() + timeout_s
        while not self._answers():
            if not self.alive:
                raise Unavailable(f"{self.name} ended while starting on port {self.port}: {self.last_words()}")
            if time.monotonic() > deadline:
                raise Unavailable(f"{self.name} did not answer within {timeout_s:g} s: {self.last_words()}")
            time.sleep(_POLL_SECONDS)

    def last_words(self, lines: int = 3) -> str:
        """Return the end of its log as one line."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError as exc:
            return f"no log ({exc.strerror})"
        return " | ".join(text.strip().splitlines()[-lines:]) or "its log is empty"

    def start(self) -> Self:
        try:
            self.prepare()
            self.launch()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self, timeout_s: float = STOP_SECONDS) -> None:
        """End it in order; by force after *timeout_s*. May be called twice."""
        if self.process is None:
            return
        if self.alive:
            self.process.send_signal(signal.SIGCONT)  # a stopped process takes no other signal
            self.process.send_signal(self.stop_signal)
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


def run_as(account: Account | None) -> _RunAs:
    """Arguments for `subprocess`. Root's groups must go too: a group's rights come before everybody's."""
    return {} if account is None else {"user": account[0], "group": account[1], "extra_groups": []}
