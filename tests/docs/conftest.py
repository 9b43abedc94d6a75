"""Fixtures: the product as a reader of the documents has it running."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.until import scaled, until_now

ROOT = Path(__file__).parents[2]


class Demo(NamedTuple):
    """`ticketwire dev` on free ports."""

    folder: Path
    state: dict[str, Any]  # its dev.json

    def at_its_ports(self, code: str) -> str:
        """*code* of a document, with the ports that this one has."""
        for port, tier in ((8000, "ingest"), (8080, "delivery")):
            code = code.replace(f"localhost:{port}", f"localhost:{self.state['ports'][tier]}")
        return code


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """It runs for all documents: each uses tickets of its own."""
    folder = tmp_path_factory.mktemp("demo")
    folder.chmod(0o755)
    command = [sys.executable, "-m", "ticketwire.cli", "dev", "--data-dir", str(folder / ".ticketwire")]
    command += [f"--{tier}-port=0" for tier in ("ingest", "delivery", "admin", "ingest-internal", "delivery-internal")]
    command += ["--worker-internal-port=0"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        until_now(lambda: b"Ctrl-C" in (folder / "log").read_bytes() or process.poll() is not None, timeout_s=60)
        assert process.poll() is None, (folder / "log").read_text()
        yield Demo(folder, json.loads((folder / ".ticketwire" / "dev.json").read_text()))
    finally:
        process.terminate()
        process.wait(scaled(60))
