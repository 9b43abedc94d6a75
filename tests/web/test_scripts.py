"""The page's scripts, by the vectors that the Python side is tested with."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def test_the_scripts_follow_the_vectors() -> None:
    """Every conversation and golden frame, in Node."""
    node = shutil.which("node")
    if node is None:
        if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
            pytest.fail("node is not on PATH, and CI must have it")
        pytest.skip("node is not on PATH")
    run = subprocess.run(
        [node, "--test", str(Path(__file__).with_name("vectors.mjs"))], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
