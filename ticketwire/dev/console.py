"""The merged log of all processes, for eyes: a coloured prefix per process, fields after the event."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, TextIO

_RESET, _DIM, _BOLD = "\033[0m", "\033[2m", "\033[1m"
_LEVELS = {"warning": "\033[33m", "error": "\033[31m", "critical": "\033[1;31m"}
_PALETTE = ("\033[36m", "\033[35m", "\033[32m", "\033[34m", "\033[96m", "\033[95m", "\033[92m", "\033[94m")
_SHOWN_OTHERWISE = ("time", "level", "tier", "event", "logger", "traceback")


class Console:
    """Writes lines as they come; each is written whole."""

    def __init__(self, stream: TextIO | None = None, colour: bool | None = None) -> None:
        """*colour*: by default when *stream* is a terminal, unless NO_COLOR is set (no-color.org)."""
        self._stream = stream or sys.stdout
        wanted = self._stream.isatty() and not os.environ.get("NO_COLOR")
        self._colour = wanted if colour is None else colour
        self._colours: dict[str, str] = {}
        self._alone = False  # whoever read us is gone

    def log(self, name: str, line: str) -> None:
        """Show one line that process *name* wrote."""
        self._write(self._prefix(name) + self._readable(line))

    def note(self, name: str, text: str) -> None:
        """Say something about process *name* ourselves."""
        self._write(self._prefix(name) + self._paint(_BOLD, _printable(text)))

    def say(self, text: str = "") -> None:
        """Write *text* without a prefix."""
        self._write(text)

    def _prefix(self, name: str) -> str:
        colour = self._colours.setdefault(name, _PALETTE[len(self._colours) % len(_PALETTE)])
        return self._paint(colour, f"{name:<9}") + self._paint(_DIM, "| ")

    def _readable(self, line: str) -> str:
        try:
            record: Any = json.loads(line)
            event = str(record["event"])
        except (ValueError, TypeError, KeyError):
            return _printable(line)
        level = str(record.get("level", ""))
        fields = " ".join(
            f"{key}={value if isinstance(value, str) and ' ' not in value else json.dumps(value, ensure_ascii=False)}"
            for key, value in record.items()
            if key not in _SHOWN_OTHERWISE
        )
        text = self._paint(_DIM, str(record.get("time", ""))[11:19]) + " "
        text += self._paint(_LEVELS.get(level, ""), f"{'' if level == 'info' else level + ': '}{_printable(event)}")
        if fields:
            text += "  " + self._paint(_DIM, _printable(fields))
        for more in str(record.get("traceback", "")).splitlines():
            text += f"\n{' ' * 11}{_printable(more)}"
        return text

    def _paint(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_RESET}" if self._colour and colour else text

    def _write(self, text: str) -> None:
        if self._alone:
            return
        try:
            print(text, file=self._stream, flush=True)
        except UnicodeEncodeError:  # a terminal that is not UTF-8
            print(text.encode("ascii", "backslashreplace").decode(), file=self._stream, flush=True)
        except OSError:  # `ticketwire dev | head`: the product goes on without an audience
            self._alone = True


def _printable(text: str) -> str:
    """Escape control characters: what a log quotes must not steer the terminal."""
    return "".join(char if char.isprintable() or char == " " else repr(char)[1:-1] for char in text)
