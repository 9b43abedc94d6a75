"""The programs of docs/client.md run as they stand there, and print what it says."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.docs.conftest import ROOT, Demo
from tests.until import scaled

TEXT = (ROOT / "docs/client.md").read_text()
# A program, and what it prints where the document shows that.
PROGRAMS = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", TEXT, re.DOTALL)


@pytest.mark.parametrize(("program", "printed"), PROGRAMS, ids=range(1, len(PROGRAMS) + 1))
def test_a_program_of_the_client_s_document_works(demo: Demo, program: str, printed: str) -> None:
    """Against the running product, in a process of its own, with warnings as errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", demo.at_its_ports(program)],
        cwd=demo.folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=scaled(60),
    )
    assert done.returncode == 0, f"{program}\n{done.stdout}\n{done.stderr}"
    assert done.stdout == printed


def test_the_document_has_programs() -> None:
    """Otherwise nothing would be tested above."""
    assert len(PROGRAMS) == TEXT.count("```python") == 4
