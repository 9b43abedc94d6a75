"""`ticketwire verify`: settings from the environment, a table or JSON, an exit code."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from ticketwire.admin.tables import table
from ticketwire.archive.messages import open_archive
from ticketwire.bus.bus import open_bus
from ticketwire.bus.census import join
from ticketwire.errors import SettingsError
from ticketwire.settings import SharedSettings, load
from ticketwire.verify.report import MOST_TOLD, Report
from ticketwire.verify.verifier import Verifier

CONNECTIONS = 8
TIMEOUT_S = 60.0
EXIT_BROKEN = 1
_DEV_FILE = Path(".ticketwire/dev.json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--since", type=_moment, default=0, metavar="TIME",
        help="only messages from then on: 2026-01-31T12:00:00Z or Unix milliseconds (default: all)",
    )  # fmt: skip
    parser.add_argument("--live", action="store_true", help="that no worker runs is a fault")
    parser.add_argument(
        "--patience", type=_seconds, metavar="SECONDS",
        help="how long what looks wrong may take to clear (default: the lease's TTL and 2 s)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run_verify(arguments: argparse.Namespace) -> int:
    """Return 0 when every promise is kept, 1 when one is broken. Raises TicketwireError."""
    report = asyncio.run(verify(_settings(), arguments.since, arguments.live, arguments.patience))
    print(json.dumps(report.to_json(), indent=2) if arguments.json else report_text(report))
    return 0 if report.whole else EXIT_BROKEN


async def verify(settings: SharedSettings, since_ms: int, must_run: bool, patience_s: float | None) -> Report:
    """Look at the deployment of *settings*."""
    url = settings.database_url.get_secret_value()
    async with open_bus(settings) as bus, open_archive(url, size=CONNECTIONS, timeout_s=TIMEOUT_S) as archive:
        await join(bus)
        await archive.check_schema()
        return await Verifier(bus, archive, settings, since_ms=since_ms, must_run=must_run, patience_s=patience_s).run()


def report_text(report: Report) -> str:
    """The report as a table, with every violation below it."""
    rows = [(c.name, c.verdict, c.looked_at, len(c.violations), c.promise) for c in report.checks]
    lines = [table(("check", "verdict", "looked at", "violations", "promise"), rows)]
    for check in report.checks:
        lines += [f"{check.name}: {sentence}" for sentence in check.violations[:MOST_TOLD]]
        if len(check.violations) > MOST_TOLD:
            lines.append(f"{check.name}: … and {len(check.violations) - MOST_TOLD:,} more")
        if check.note:
            lines.append(f"{check.name}: {check.note}")
    lines.append(f"{'whole' if report.whole else 'BROKEN'}, {report.seconds:.1f} s")
    return "\n".join(lines)


def _settings() -> SharedSettings:
    """From the environment, else from what a `ticketwire dev` of this folder says of itself."""
    given: dict[str, Any] = {}
    if not os.environ.get("TICKETWIRE_REDIS_URL") and _DEV_FILE.is_file():
        try:
            state = json.loads(_DEV_FILE.read_text(encoding="utf-8"))
            given = {"redis_url": state["redis_url"], "database_url": state["database_url"], "auth": "off"}
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise SettingsError(f"{_DEV_FILE} cannot be read: set TICKETWIRE_REDIS_URL and the others") from exc
    return load(SharedSettings, **given)


def _moment(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) < 2**63:
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = datetime.min
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError(f"found {text!r}, allowed is 2026-01-31T12:00:00Z or Unix milliseconds")
    return max(0, round(moment.timestamp() * 1000))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 3_600:
        raise argparse.ArgumentTypeError(f"found {text!r}, allowed is 0 to 3600")
    return seconds
