"""One process of a tier: started, logged, started again when it dies, and stopped."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Mapping

from ticketwire.dev.console import Console
from ticketwire.embedded.process import die_with_parent

RESTART_SECONDS = 1.0
_LONGEST_LINE = 2**20


class TierProcess:
    """`python -m <module>` with its own environment, for as long as `run` runs."""

    def __init__(
        self,
        tier: str,
        name: str,
        module: str,
        env: Mapping[str, str],
        console: Console,
        changed: Callable[[], None],
    ) -> None:
        """*changed* is called whenever `pid` has another value."""
        self.tier = tier  # "worker"
        self.name = name  # "worker-2"
        self.pid: int | None = None
        self.last_exit: int | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._module = module
        self._env = dict(env)
        self._console = console
        self._changed = changed

    async def run(self, stopping: asyncio.Event) -> None:
        """Keep it running until *stopping* is set and it has ended; `signal` is what ends it."""
        while not stopping.is_set():
            process = await asyncio.create_subprocess_exec(
                # -P: a folder named `ingest` where the user happens to stand is not ours.
                *(sys.executable, "-P", "-m", self._module),
                env=self._env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                limit=_LONGEST_LINE,
                start_new_session=True,  # Ctrl-C is for `dev`, which tells the tiers in its own order
                preexec_fn=die_with_parent(signal.SIGTERM),
            )
            self._process, self.pid = process, process.pid
            self._changed()
            if stopping.is_set():  # told while the process was being made, when `signal` could not reach it
                process.terminate()
            assert process.stdout is not None
            logging = asyncio.create_task(self._show(process.stdout))
            self.last_exit = await process.wait()
            self.pid = None
            self._changed()
            # A child of the tier may have inherited the pipe and outlive it.
            await asyncio.wait({logging}, timeout=RESTART_SECONDS)
            logging.cancel()
            if stopping.is_set():
                return
            self._console.note(self.name, f"ended with {_cause(self.last_exit)}; starting again in 1 s")
            try:
                await asyncio.wait_for(stopping.wait(), RESTART_SECONDS)
            except TimeoutError:
                continue

    def signal(self, number: signal.Signals) -> None:
        """Send *number* if it runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def _show(self, stdout: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await stdout.readline()
            except ValueError:
                self._console.note(self.name, f"a log line of more than {_LONGEST_LINE} bytes is not shown")
                continue
            if not line:
                return
            self._console.log(self.name, line.decode("utf-8", "replace").rstrip("\r\n"))


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
