"""Held messages and people's decisions about them, and who is muted."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final, NamedTuple

from schemas.message_id import MessageId
from ticketwire.archive.audit import Decision, append
from ticketwire.archive.database import Database
from ticketwire.errors import Rejected

_HELD: Final = """
SELECT m.ticket_id, m.id_ms, m.id_seq, m.sender_id, m.body, m.verdict::text AS verdict, m.client_message_id,
       m.trace_id, r.decision
FROM messages AS m LEFT JOIN reviews AS r USING (ticket_id, id_ms, id_seq)
WHERE m.status = 'held'
"""
_HELD_PAGE: Final = _HELD + " AND (m.id_ms, m.id_seq, m.ticket_id) > ($1, $2, $3) ORDER BY 2, 3, 1 LIMIT $4"
_HELD_ONE: Final = _HELD + " AND m.ticket_id = $1 AND m.id_ms = $2 AND m.id_seq = $3"
_HELD_BEFORE: Final = _HELD + " AND r.decision IS NULL AND m.id_ms < $1 ORDER BY 2, 3, 1 LIMIT $2"
_UNSENT: Final = _HELD + " AND r.decision = 'approve' AND r.decided_at < now() - $1::interval ORDER BY 2, 3, 1 LIMIT $2"
_STATUS: Final = "SELECT status FROM messages WHERE ticket_id = $1 AND id_ms = $2 AND id_seq = $3"
_LOCK: Final = _STATUS + " FOR UPDATE"
_DECIDED: Final = "SELECT decision, actor FROM reviews WHERE ticket_id = $1 AND id_ms = $2 AND id_seq = $3"
_DECIDE: Final = """
INSERT INTO reviews (ticket_id, id_ms, id_seq, decision, actor, why) VALUES ($1, $2, $3, $4, $5, $6)
"""
_REJECT: Final = """
UPDATE messages SET status = 'rejected' WHERE ticket_id = $1 AND id_ms = $2 AND id_seq = $3 AND status = 'held'
"""
_APPROVED: Final = """
SELECT given.nr, m.body, r.actor, r.sent_as
FROM unnest($1::text[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS given (ticket_id, id_ms, id_seq, nr)
JOIN reviews AS r USING (ticket_id, id_ms, id_seq) JOIN messages AS m USING (ticket_id, id_ms, id_seq)
WHERE r.decision = 'approve'
"""
_SENT: Final = """
UPDATE reviews SET sent_as = $4 WHERE ticket_id = $1 AND id_ms = $2 AND id_seq = $3 AND sent_as IS NULL
"""
# The text moves to the new row; the old id keeps its place, so that its fate can be followed.
_MOVED: Final = """
UPDATE messages SET status = 'moved', moved_to = $4, body = '', client_message_id = NULL
WHERE ticket_id = $1 AND id_ms = $2 AND id_seq = $3 AND status = 'held'
"""
_MUTE: Final = """
INSERT INTO mutes (sender_id, from_ms, until_ms, actor, why) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (sender_id, from_ms) DO UPDATE SET until_ms = $3, actor = $4, why = $5
"""
_UNMUTE: Final = "UPDATE mutes SET until_ms = $2 WHERE sender_id = $1 AND until_ms > $2"
_MUTED: Final = "SELECT sender_id, from_ms, until_ms FROM mutes WHERE until_ms > $1"


class HeldMessage(NamedTuple):
    """A message that waits for a person."""

    ticket_id: str
    id_ms: int
    id_seq: int
    sender_id: str
    body: str  # masked where rules masked it
    verdict: str | None  # JSON text: which rules held it
    client_message_id: str | None
    trace_id: str | None
    decision: str | None  # approve: on its way to the log; None: undecided

    @property
    def message_id(self) -> MessageId:
        return MessageId(self.id_ms, self.id_seq)


class Approved(NamedTuple):
    """An approved message, as the worker needs it."""

    body: str
    actor: str
    sent_as: str | None  # the id it has in the log already


class Mute(NamedTuple):
    """Nothing that this sender has accepted in this time is shown."""

    sender_id: str
    from_ms: int
    until_ms: int


class Reviews:
    """Raises Unavailable when PostgreSQL is out of reach."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def held(self, after: tuple[MessageId, str] | None, limit: int) -> list[HeldMessage]:
        """Return held messages, oldest first, from behind *after* (id, ticket) on."""
        message_id, ticket = after or (MessageId(-1, 0), "")
        return [HeldMessage(*r) for r in await self._database.fetch(_HELD_PAGE, *message_id, ticket, limit)]

    async def held_before(self, ms: int, limit: int) -> list[HeldMessage]:
        """Return undecided messages accepted before *ms*, for their expiry."""
        return [HeldMessage(*r) for r in await self._database.fetch(_HELD_BEFORE, ms, limit)]

    async def unsent(self, seconds: float, limit: int) -> list[HeldMessage]:
        """Return messages approved more than *seconds* ago that are not in their log: somebody died between."""
        return [HeldMessage(*r) for r in await self._database.fetch(_UNSENT, timedelta(seconds=seconds), limit)]

    async def decide(self, ticket: str, message_id: MessageId, decision: str, actor: str, why: str) -> HeldMessage:
        """Write down a decision, `approve` or `reject`, and return the message it is about.

        Raises Rejected: `not_found`, or `already_decided` for whoever comes second.
        """
        key = (ticket, *message_id)
        async with self._database.transaction() as connection:
            await connection.execute(_LOCK, *key)  # a second reviewer waits here, and then sees what the first did
            record = await connection.fetchrow(_HELD_ONE, *key)
            if record is None or record["decision"] is not None:
                raise await self._refusal(key)
            await connection.execute(_DECIDE, *key, decision, actor, why)
            if decision == "reject":
                await connection.execute(_REJECT, *key)
            await append(connection, [Decision(actor, decision, f"message {ticket}/{message_id}", why, {})])
        return HeldMessage(*record)._replace(decision=decision)

    async def _refusal(self, key: tuple[str, int, int]) -> Rejected:
        ticket, message_id = key[0], MessageId(*key[1:])
        decided = await self._database.fetchrow(_DECIDED, *key)
        if decided is not None:
            did = {"approve": "approved", "reject": "rejected"}[decided["decision"]]
            return Rejected(
                "already_decided", f"message {message_id} of ticket {ticket} was {did} by {decided['actor']}"
            )
        found = await self._database.fetchrow(_STATUS, *key)
        if found is None:
            return Rejected("not_found", f"ticket {ticket} has no message {message_id}")
        return Rejected("already_decided", f"message {message_id} of ticket {ticket} is {found['status']}, not held")

    async def approved(self, originals: Sequence[tuple[str, MessageId]]) -> dict[tuple[str, MessageId], Approved]:
        """Return those of *originals* (ticket, id) that were approved."""
        if not originals:
            return {}
        columns = zip(*((ticket, *message_id) for ticket, message_id in originals), strict=True)
        records = await self._database.fetch(_APPROVED, *columns)
        return {originals[r["nr"] - 1]: Approved(r["body"], r["actor"], r["sent_as"]) for r in records}

    async def sent(self, ticket: str, original: MessageId, new: MessageId) -> None:
        """Note that an approved message is archived again under *new*. May be repeated."""
        async with self._database.transaction() as connection:
            await connection.execute(_SENT, ticket, *original, str(new))
            await connection.execute(_MOVED, ticket, *original, str(new))

    async def mute(self, sender: str, from_ms: int, until_ms: int, actor: str, why: str) -> None:
        """Show nothing that *sender* sends from *from_ms* until *until_ms* (Unix ms)."""
        async with self._database.transaction() as connection:
            await connection.execute(_MUTE, sender, from_ms, until_ms, actor, why)
            await append(connection, [Decision(actor, "mute", f"sender {sender}", why, {"until_ms": until_ms})])

    async def unmute(self, sender: str, at_ms: int, actor: str, why: str) -> bool:
        """End the mutes of *sender*; False when there were none."""
        async with self._database.transaction() as connection:
            tag = await connection.execute(_UNMUTE, sender, at_ms)
            if tag == "UPDATE 0":
                return False
            await append(connection, [Decision(actor, "unmute", f"sender {sender}", why, {})])
        return True

    async def muted(self, at_ms: int) -> list[Mute]:
        """Return the mutes that end after *at_ms*."""
        return [Mute(*record) for record in await self._database.fetch(_MUTED, at_ms)]
