"""The Lua scripts, known by file name; each file's header is its contract.

On Redis 7 and later every script but `accept` runs even when Redis is over `maxmemory`: settling an entry frees
memory, so refusing it would keep Redis full for ever. Older servers know no script flags.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path

_FOLDER = Path(__file__).parent / "lua"


@dataclass(frozen=True, slots=True)
class Script:
    text: str
    sha: str  # what EVALSHA wants; Redis names scripts by SHA-1


def _script(text: str) -> Script:
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


_TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(_FOLDER.glob("*.lua"))}
_PLAIN = {name: _script(text) for name, text in _TEXTS.items()}
_FLAGGED = {name: _script(f"#!lua flags=allow-oom\n{text}") for name, text in _TEXTS.items() if name != "accept"}


def script(name: str, version: tuple[int, int]) -> Script:
    """Return the script in the form that a server of this version understands."""
    return _FLAGGED.get(name, _PLAIN[name]) if version >= (7, 0) else _PLAIN[name]
