"""Fixtures: `ticketwire dev` with everything real, and headless Chromium."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.async_api import Browser, async_playwright

from tests.servers import missing
from tests.until import scaled, until_now

PORTS = ("ingest", "admin", "delivery", "ingest-internal", "delivery-internal", "worker-internal")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
)  # fmt: skip


@dataclass(frozen=True)
class Dev:
    """A running `ticketwire dev`."""

    ingest: str
    delivery: str
    delivery_pid: int


@pytest.fixture(scope="module")
def dev() -> Iterator[Dev]:
    """The whole product as `make demo` starts it, on free ports."""
    ours = ("TICKETWIRE_", "INGEST_", "WORKER_", "DELIVERY_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    with tempfile.TemporaryDirectory(prefix="ticketwire-browser-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)  # PostgreSQL has an account of its own
        ports = [word for port in PORTS for word in (f"--{port}-port", "0")]
        command = [sys.executable, "-m", "ticketwire.cli", "dev", "--data-dir", folder, *ports]
        with (
            open(Path(folder, "output"), "wb") as output,
            subprocess.Popen(command, env=clean, stdout=output, stderr=output) as process,
        ):
            try:
                found = until_now(lambda: _state(process, Path(folder)), timeout_s=60)
                yield Dev(
                    f"http://127.0.0.1:{found['ports']['ingest']}",
                    f"http://127.0.0.1:{found['ports']['delivery']}",
                    found["pids"]["delivery"][0],
                )
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(scaled(30))


def _state(process: subprocess.Popen[bytes], folder: Path) -> dict[str, dict[str, list[int]]]:
    assert process.poll() is None, (folder / "output").read_text()
    try:
        found: dict[str, dict[str, list[int]]] = json.loads((folder / "dev.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """Debian's Chromium, or the one CHROMIUM names."""
    program = os.environ.get("CHROMIUM") or shutil.which("chromium", path="/usr/bin")
    if program is None:
        missing("no chromium at /usr/bin/chromium and CHROMIUM is not set")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        await browser.close()
