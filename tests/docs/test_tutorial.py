"""The tutorial's commands do what it says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.until import scaled, until_now

ROOT = Path(__file__).parents[2]
PROGRAMS = {"ticketwire": f"{sys.executable} -m ticketwire.cli", "python": sys.executable}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """`ticketwire dev` on free ports; its folder and the content of its dev.json."""
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
        yield folder, json.loads((folder / ".ticketwire" / "dev.json").read_text())
    finally:
        process.terminate()
        process.wait(scaled(60))


def test_every_command_of_the_tutorial_works(demo: tuple[Path, dict[str, Any]]) -> None:
    folder, state = demo
    printed = []
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / "docs/tutorial.md").read_text(), re.DOTALL):
        block = block.replace("localhost:8000", f"localhost:{state['ports']['ingest']}")
        block = block.replace("localhost:8080", f"localhost:{state['ports']['delivery']}")
        block = re.sub(r"\.venv/bin/(ticketwire|python)", lambda found: PROGRAMS[found[1]], block)
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            ["bash", "-euc", block], cwd=folder, env=environment, capture_output=True, text=True, timeout=scaled(60)
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        printed.append(done.stdout)
    first, twice, history, fate, views, _killed, after = printed
    assert json.loads(first)["status"] == "success"
    one, two = re.findall(r'"message_id":"([^"]+)"', twice)
    assert one == two
    assert "Hello, I need assistance with room 101." in history
    assert json.loads(fate)["status"] == "masked"
    assert "no dead letters" in views
    assert [m["message"] for m in json.loads(after)["messages"]] == [f"Still here {n}" for n in (1, 2, 3)]
