"""The tutorial's commands do what it says."""

from __future__ import annotations

import json
import re
import subprocess
import sys

from tests.docs.conftest import ROOT, Demo
from tests.until import scaled

PROGRAMS = {"ticketwire": f"{sys.executable} -m ticketwire.cli", "python": sys.executable}


def test_every_command_of_the_tutorial_works(demo: Demo) -> None:
    """Typed one after the other, from the beginning to the end."""
    printed = []
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / "docs/tutorial.md").read_text(), re.DOTALL):
        block = re.sub(r"\.venv/bin/(ticketwire|python)", lambda found: PROGRAMS[found[1]], demo.at_its_ports(block))
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            ["bash", "-euc", block],
            cwd=demo.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=scaled(60),
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
