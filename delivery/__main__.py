"""`python -m delivery`: one delivery node."""

from __future__ import annotations

import sys

from delivery.app import serve
from delivery.settings import DeliverySettings
from ticketwire.lifecycle import run_tier


def main() -> int:
    """Run a node with settings from the environment; return the exit code."""
    return run_tier("delivery", DeliverySettings, serve)


if __name__ == "__main__":
    sys.exit(main())
