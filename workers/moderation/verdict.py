"""What moderation is asked and what it answers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Action(StrEnum):
    """What happens to a message. Of several rules that hit, the last one listed here wins."""

    ALLOW = "allow"
    MASK = "mask"  # the offending spans are replaced, the rest is shown
    HOLD = "hold"  # archived, not shown, until a person decides
    REJECT = "reject"  # archived as rejected, never shown


# Candidates and verdicts are values, never changed once made. They are not `frozen` since that makes
# them twice as slow to make, and each message has one of both.
@dataclass(slots=True)
class Candidate:
    """A message on its way to the archive, as the rules see it."""

    ticket_id: str
    sender_id: str
    text: str
    sent_at_ms: int  # Unix milliseconds at which ingest accepted it: rules never look at a clock
    role: str = ""  # of the sender, when the token states one


@dataclass(frozen=True, slots=True)
class Hit:
    """One rule that had something to say. Never carries the text it found."""

    rule: str
    version: int
    action: Action
    detail: str = ""  # a category or count, such as "card" or "3 links"; safe to store and to log


@dataclass(slots=True)
class Verdict:
    """The outcome for one message: the strictest action of its hits, and the text as it may be stored."""

    action: Action
    text: str
    hits: tuple[Hit, ...] = ()


class Moderator(Protocol):
    """Whatever can judge a batch of one partition."""

    async def judge(self, batch: Sequence[Candidate]) -> list[Verdict]:
        """Return one verdict for each candidate, in the same order.

        Messages of one ticket are judged in order. Raises `Unavailable` when no verdict
        can be had now and the policy says to wait; nothing is acknowledged then.
        """
        ...
