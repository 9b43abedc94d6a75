"""Who is writing: throttled, ended by time, by a message or by leaving. What is published is kept nowhere."""

from __future__ import annotations

from dataclasses import dataclass

from delivery.members import Members

REPEAT_SHARE = 1 / 3  # of the time typing lasts: more often it is not passed on


@dataclass(slots=True)
class _Writing:
    until: float
    published_at: float
    members: Members  # who end it with a message


def notice(ticket: str, user: str, on: bool, lasts_s: float) -> str:
    """Return the `typing` frame. Ids need no escaping (`events.ID_PATTERN`)."""
    shown = "true" if on else "false"
    return (
        f'{{"type":"typing","ticket_id":"{ticket}","user_id":"{user}","on":{shown},'
        f'"expires_in_ms":{round(lasts_s * 1000) if on else 0}}}'
    )


class Typists:
    """The users of this node who are writing. Every call returns the notices to publish, as (ticket, JSON)."""

    def __init__(self, lasts_s: float) -> None:
        self._lasts = lasts_s
        self._writing: dict[tuple[str, str], _Writing] = {}

    def note(self, ticket: str, user: str, on: bool, members: Members, now: float) -> list[tuple[str, str]]:
        """A client says that *user* writes, or has stopped."""
        if not on:
            return self.stop(ticket, user)
        known = self._writing.get((ticket, user))
        if known is not None and user in members.typists:
            known.until = now + self._lasts
            if now - known.published_at < self._lasts * REPEAT_SHARE:
                return []
        self._writing[ticket, user] = _Writing(now + self._lasts, now, members)
        members.typists.add(user)
        return [(ticket, notice(ticket, user, True, self._lasts))]

    def stop(self, ticket: str, user: str) -> list[tuple[str, str]]:
        """*user* writes no more, or has left."""
        known = self._writing.pop((ticket, user), None)
        if known is None or user not in known.members.typists:
            return []  # not writing, or a message has ended it for everybody
        known.members.typists.discard(user)
        return [(ticket, notice(ticket, user, False, self._lasts))]

    def expire(self, now: float) -> list[tuple[str, str]]:
        """End those of whom nothing was heard. Call it about once a second."""
        over = [key for key, one in self._writing.items() if one.until <= now]
        return [told for ticket, user in over for told in self.stop(ticket, user)]
