"""What the benchmark needs that is not Python, built outside the tree of sources, anew when a source is newer."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

SOURCES = Path(__file__).parent.parent / "peers"
BUILT = Path(__file__).parent.parent.parent / ".venv" / "bench" / "peers"


class Missing(Exception):
    """Something is not here; the text says what, and how to get it."""


def tool(name: str, get: str) -> str:
    """Return the path of a program. Raises Missing."""
    found = shutil.which(name) or shutil.which(name, path="/usr/local/go/bin:/usr/sbin:/sbin")
    if found is None:
        raise Missing(f"no {name}: {get}")
    return found


def generator() -> Path:
    """The load generator. Raises Missing."""
    folder = SOURCES / "loadgen"
    go = tool("go", "install Go 1.21 or later, such as Debian's golang (bookworm-backports), or from https://go.dev/dl")
    return _built("loadgen", folder, [go, "build", "-o"], after=["."])


def floor() -> Path:
    """The C program that only sends. Raises Missing."""
    cc = tool(os.environ.get("CC", "cc"), "apt install gcc")
    return _built("floor", SOURCES / "floor", [cc, "-O2", "-o"], after=["floor.c"])


def _built(name: str, folder: Path, command: Sequence[str], after: Sequence[str]) -> Path:
    target = BUILT / name
    if target.exists() and target.stat().st_mtime > max(path.stat().st_mtime for path in folder.iterdir()):
        return target
    BUILT.mkdir(parents=True, exist_ok=True)
    _run([*command, str(target), *after], folder)
    return target


def socketio() -> Path:
    """The folder of Socket.IO's packages, as package-lock.json has them. Raises Missing."""
    npm = tool("npm", "apt install nodejs npm")
    folder = BUILT / "socketio"
    sources = [SOURCES / "socketio" / name for name in ("package.json", "package-lock.json")]
    done = folder / "installed"
    if not done.exists() or done.stat().st_mtime < max(path.stat().st_mtime for path in sources):
        folder.mkdir(parents=True, exist_ok=True)
        for path in sources:
            shutil.copy(path, folder)
        _run([npm, "ci", "--no-audit", "--no-fund", "--loglevel=error"], folder)
        done.touch()
    return folder / "node_modules"


def _run(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"`{' '.join(command)}` in {folder} failed: {(done.stderr or done.stdout).strip()[-500:]}")
