"""Decide, event by event, whether a reader of one ticket has missed something. No I/O.

web/feed.js has the same feed; tests/vectors/feed.json is run by both sides' tests, so they cannot drift.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from schemas.message_id import MessageId


class Verdict(Enum):
    DELIVER = "deliver"  # the next event in order
    DUPLICATE = "duplicate"  # seen before; at-least-once makes this normal
    GAP = "gap"  # read the log after `Feed.at`, then feed it through again


@dataclass(slots=True)
class Feed:
    """How far one reader has come in one ticket."""

    at: MessageId

    def judge(self, event: MessageId, prev: MessageId) -> Verdict:
        """Say what to do with *event*, whose predecessor in the log is *prev*."""
        if event <= self.at:
            return Verdict.DUPLICATE
        if prev != self.at:  # also when prev is older: a lost log starts its chain anew
            return Verdict.GAP
        self.at = event
        return Verdict.DELIVER

    def advance(self, event: MessageId) -> bool:
        """Take *event* from a complete reading of the log after `at`; False if it was taken before."""
        if event <= self.at:
            return False
        self.at = event
        return True
