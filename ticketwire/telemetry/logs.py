"""Logs: one JSON object a line on stdout, for people with `jq` and for collectors.

    {"time": "2026-05-01T12:00:00.123Z", "level": "info", "tier": "ingest", "event": "refused", "code": "backlog"}

`event` is the constant text given to the logger; what varies is in `extra` and becomes fields of its own.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, TextIO

# What every record has; the rest of its attributes came from `extra`.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}
_RESERVED = ("time", "level", "tier", "event", "logger", "error", "traceback")


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON. Never raises for a value that JSON does not know."""

    def __init__(self, tier: str) -> None:
        super().__init__()
        self._tier = tier

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname.lower(),
            "tier": self._tier,
            "event": record.getMessage(),
        }
        if record.name != "root":
            line["logger"] = record.name
        for name, value in record.__dict__.items():
            if name not in _STANDARD:
                line[f"{name}_" if name in _RESERVED else name] = value
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            line["error"] = f"{type(error).__name__}: {error}"
            line["traceback"] = "".join(traceback.format_exception(error))
        return json.dumps(line, default=str)  # ASCII: a lone surrogate must not break the stream


def setup(tier: str, level: str = "info", stream: TextIO | None = None) -> None:
    """Send all logs of this process to *stream* (stdout) as JSON lines. May be called again: the last call counts.

    *level* is `debug`, `info`, `warning` or `error`.
    """
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(JsonLines(tier))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    # Their news of every start and connection is ours to tell, or nobody's.
    for chatty in ("uvicorn", "asyncio", "httpx", "httpcore", "alembic", "websockets"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
