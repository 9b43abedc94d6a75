"""Message ids: the id Redis gave the entry on the ingest stream, `<Unix milliseconds>-<sequence>`.

The same id names the message in its ticket's log, in the archive and on every socket, so it is
also a reader's position.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# Redis keeps both halves as unsigned 64-bit numbers: at most twenty digits.
_ID = re.compile(r"(\d{1,20})(?:-(\d{1,20}))?", re.ASCII)
_LARGEST = 2**64 - 1
# The archive stores both halves as PostgreSQL bigint, which is signed.
_LARGEST_STORED = 2**63 - 1


class MessageId(NamedTuple):
    """A place in a ticket's order; compares as Redis compares entry ids."""

    ms: int  # Unix milliseconds at which ingest accepted the message
    seq: int  # counts messages of the same millisecond

    @classmethod
    def parse(cls, text: str) -> MessageId:
        """Read `"1616690567456-0"`; as in Redis, `"1616690567456"` means sequence 0.

        Raises ValueError, saying what was found, for anything else.
        """
        # Two halves far from the largest without the expression, in half the time: this runs twice for every event.
        left, _, right = text.partition("-")
        if left.isdecimal() and right.isdecimal() and text.isascii() and len(left) < 19 and len(right) < 19:
            return cls(int(left), int(right))
        match = _ID.fullmatch(text)
        if match is None:
            raise ValueError(f"message id is {text[:60]!r}, expected <milliseconds>-<sequence>")
        ms, seq = int(match[1]), int(match[2] or 0)
        if ms > _LARGEST or seq > _LARGEST:
            raise ValueError(f"message id is {text!r}, each half may be at most {_LARGEST}")
        return cls(ms, seq)

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"

    @property
    def storable(self) -> bool:
        """Whether the archive can hold it: PostgreSQL's bigint ends at 2**63 - 1."""
        return self.ms <= _LARGEST_STORED and self.seq <= _LARGEST_STORED


ZERO = MessageId(0, 0)  # before every message; `since=0-0` asks for everything
