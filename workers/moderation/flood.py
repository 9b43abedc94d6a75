"""Say when one sender floods a ticket, or sends the same again and again. Pure: time comes with the message.

The state belongs to the owner of a partition. It is not stored: after a takeover the new owner starts
with none, so that a flooding sender may get through once more what the rule allows in one window.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from workers.moderation.verdict import Candidate


@dataclass(frozen=True, slots=True)
class FloodLimits:
    """How much is too much, for one sender in one ticket."""

    messages: int  # more than this in `window_ms` is a flood
    window_ms: int
    duplicates: int  # more than this many alike in `duplicate_window_ms`; 0: any number
    duplicate_window_ms: int
    # Shorter messages (`ok`, `thanks`) repeat in innocent talk.
    duplicate_min_characters: int


# What is remembered of a sender, in one list without objects of their own, since some is made for every
# message: of each message that was judged when it was sent, its shape, the call that judged it, and the
# answer. The call tells a message that is judged again from a second one of that millisecond.
_Seen = list[Any]
_AT, _SHAPE, _CALL, _DETAIL = range(4)
_WIDTH = 4


@dataclass(slots=True)
class FloodMemory:
    """What one partition's owner remembers of senders; the least recent are forgotten first.

    Bounded: *max_senders* pairs of sender and ticket, with at most *max_messages* messages each.
    """

    max_senders: int = 10_000
    max_messages: int = 64
    _senders: OrderedDict[tuple[str, str, str], _Seen] = field(default_factory=OrderedDict)
    _call: int = 0

    def __len__(self) -> int:
        return len(self._senders)

    def begin(self) -> None:
        """Say that another batch is judged: what is seen again from now on is a replay."""
        self._call += 1

    def judge(self, rule: str, candidate: Candidate, limits: FloodLimits) -> str:
        """Remember *candidate* and return "flood", "duplicate" or "".

        A message that is judged again, because its batch had to be repeated, gets the same answer
        and counts once.
        """
        return dict(self.judge_all(rule, [candidate], [0], limits, [shape_of(candidate.text)])).get(0, "")

    def judge_all(
        self,
        rule: str,
        candidates: Sequence[Candidate],
        places: Iterable[int],
        limits: FloodLimits,
        shapes: Sequence[int],
    ) -> list[tuple[int, str]]:
        """Do what `judge` does for the candidates at *places*; return the answers that are not "", with their places.

        *shapes* are the `shapes_of` the texts of all *candidates*.
        """
        found: list[tuple[int, str]] = []
        senders, call = self._senders, self._call
        get, move_to_end = senders.get, senders.move_to_end
        for place in places:
            candidate = candidates[place]
            now, shape = candidate.sent_at_ms, shapes[place]
            key = (rule, candidate.sender_id, candidate.ticket_id)
            seen = get(key)
            if seen is None:
                senders[key] = [now, shape, call, ""]
                if len(senders) > self.max_senders:
                    senders.popitem(last=False)
                continue
            move_to_end(key)
            # Perhaps judged before; time does not stand still otherwise.
            again = self._again(seen, now, shape) if now <= seen[_AT - _WIDTH] else None
            if again is None:
                again = self._detail(seen, now, shape, len(candidate.text), limits)
                seen += (now, shape, call, again)
                if len(seen) > self.max_messages * _WIDTH:
                    del seen[:_WIDTH]
            if again:
                found.append((place, again))
        return found

    def _again(self, seen: _Seen, now: int, shape: int) -> str | None:
        """Return the answer that this message got when it was judged before; None if it was not."""
        for at in range(0, len(seen), _WIDTH):
            if seen[at] == now and seen[at + _SHAPE] == shape and seen[at + _CALL] != self._call:
                seen[at + _CALL] = self._call  # the next one like it is the next repeat, or a new message
                return str(seen[at + _DETAIL])
        return None

    def _detail(self, seen: _Seen, now: int, shape: int, size: int, limits: FloodLimits) -> str:
        counts = limits.duplicates if size >= limits.duplicate_min_characters else 0
        longest = max(limits.window_ms, limits.duplicate_window_ms) if counts else limits.window_ms
        recent = alike = 0
        for at in range(len(seen) - _WIDTH, -1, -_WIDTH):
            age = now - seen[at]
            if age >= longest:
                break
            recent += age < limits.window_ms
            alike += seen[at + _SHAPE] == shape and age < limits.duplicate_window_ms
        if recent >= min(limits.messages, self.max_messages):
            return "flood"
        return "duplicate" if counts and alike >= counts else ""


# Near duplicates differ in case, digits, signs and spaces ("Buy now 17!!" and "buy now 18 !").
_IGNORED = bytes(code for code in range(128) if not chr(code).isalpha())
_SHAPE_CHARACTERS = 400
_DIVIDER = b"\x01"
_IGNORED_BETWEEN = _IGNORED.replace(_DIVIDER, b"")
_LOWER = bytes(range(256)).lower()


def shape_of(text: str) -> int:
    """Return a number that texts share which differ in case, digits, signs or spaces only.

    A text without letters is its own shape: two numbers of a questionnaire are no duplicates.
    """
    start = text[:_SHAPE_CHARACTERS]
    letters = start.lower().encode("utf-8", "surrogatepass").translate(None, _IGNORED)
    return hash(letters or start)


def shapes_of(texts: Sequence[str]) -> list[int]:
    """Return the `shape_of` each of *texts*, several times faster than one by one for those in ASCII."""
    starts = [text[:_SHAPE_CHARACTERS] for text in texts]
    joined = _DIVIDER.decode().join(starts).encode("utf-8", "surrogatepass")
    letters = joined.translate(_LOWER, _IGNORED_BETWEEN).split(_DIVIDER)
    if len(letters) != len(texts):  # one of them holds the divider
        return [shape_of(text) for text in texts]
    shapes = [hash(own or start) for own, start in zip(letters, starts, strict=True)]
    if len(joined) > sum(map(len, starts)) + len(starts) - 1:
        for place, start in enumerate(starts):
            if not start.isascii():
                shapes[place] = shape_of(start)
    return shapes
