"""`python -m workers`: one worker."""

from __future__ import annotations

import sys

from ticketwire.lifecycle import run_tier
from workers.app import serve
from workers.settings import WorkerSettings


def main() -> int:
    """Run a worker with settings from the environment; return the exit code."""
    return run_tier("worker", WorkerSettings, serve)


if __name__ == "__main__":
    sys.exit(main())
