"""The SQL about messages. Parameters stand in the order in which `messages` passes them."""

from __future__ import annotations

from typing import Final

# One statement per batch, columns as arrays (ArchiveRow's order). No conflict target: the message id or the client's
# key may be taken. It answers with one line: how many rows are new and, only if not all, which.
STORE: Final = """
WITH fresh AS (
    INSERT INTO messages (ticket_id, id_ms, id_seq, partition, sender_id, body, status, sent_at,
                          verdict, original_id, client_message_id, trace_id)
    SELECT ticket_id, id_ms, id_seq, partition, sender_id, body, status, to_timestamp(sent_at),
           verdict, original_id, client_message_id, trace_id
    FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::integer[], $5::text[], $6::text[], $7::text[],
                $8::bigint[], $9::jsonb[], $10::text[], $11::text[], $12::text[])
         AS given (ticket_id, id_ms, id_seq, partition, sender_id, body, status, sent_at,
                   verdict, original_id, client_message_id, trace_id)
    ON CONFLICT DO NOTHING
    RETURNING ticket_id, id_ms, id_seq
)
SELECT count(*) AS count,
       CASE WHEN count(*) < cardinality($2) THEN array_agg(ticket_id) END AS tickets,
       CASE WHEN count(*) < cardinality($2) THEN array_agg(id_ms) END AS ms,
       CASE WHEN count(*) < cardinality($2) THEN array_agg(id_seq) END AS seqs
FROM fresh
"""

# ArchiveRow's order.
_COLUMNS: Final = """
    m.ticket_id, m.id_ms, m.id_seq, m.partition, m.sender_id, m.body, m.status,
    extract(epoch FROM m.sent_at)::bigint AS sent_at, m.verdict::text AS verdict,
    m.original_id, m.client_message_id, m.trace_id
FROM messages AS m
"""

# Under each id asked for: its row, or the row it moved to.
READ_BACK: Final = f"""
SELECT given.nr, found.*
FROM unnest($1::text[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS given (ticket_id, id_ms, id_seq, nr)
JOIN messages AS first USING (ticket_id, id_ms, id_seq)
CROSS JOIN LATERAL (
    SELECT {_COLUMNS}
    WHERE m.ticket_id = first.ticket_id
      AND m.id_ms = coalesce(split_part(first.moved_to, '-', 1)::bigint, first.id_ms)
      AND m.id_seq = coalesce(split_part(first.moved_to, '-', 2)::bigint, first.id_seq)
) AS found
"""  # noqa: S608

HOLDERS: Final = """
SELECT given.nr, m.id_ms, m.id_seq, m.status
FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS given (ticket_id, sender_id, client_message_id, nr)
JOIN messages AS m USING (ticket_id, sender_id, client_message_id)
"""

FREE_KEY: Final = """
UPDATE messages SET client_message_id = NULL
WHERE ticket_id = $1 AND id_ms = $2 AND id_seq = $3 AND client_message_id = $4
"""

# A rename, step by step: the client's key is unique, so it leaves the old row before the new one takes it.
LOCK: Final = """
SELECT moved_to, client_message_id FROM messages WHERE ticket_id = $1 AND id_ms = $2 AND id_seq = $3 FOR UPDATE
"""
COPY: Final = """
INSERT INTO messages (ticket_id, id_ms, id_seq, partition, sender_id, body, status, verdict,
                      original_id, trace_id, sent_at, archived_at)
SELECT ticket_id, $4, $5, partition, sender_id, body, status, verdict,
       coalesce(original_id, $6), trace_id, sent_at, archived_at
FROM messages WHERE ticket_id = $1 AND id_ms = $2 AND id_seq = $3
"""
LEAVE: Final = """
UPDATE messages SET status = 'moved', moved_to = $4, body = '', verdict = NULL, client_message_id = NULL
WHERE ticket_id = $1 AND id_ms = $2 AND id_seq = $3
"""
FOLLOW: Final = "UPDATE messages SET moved_to = $3 WHERE ticket_id = $1 AND moved_to = $2"
TAKE_KEY: Final = """
UPDATE messages SET client_message_id = $4 WHERE ticket_id = $1 AND id_ms = $2 AND id_seq = $3
"""

_SHOWN: Final = f"SELECT {_COLUMNS} WHERE m.ticket_id = $1 AND m.status IN ('confirmed', 'masked')"
# What has a place in the log: also the changes of messages.
_LOGGED: Final = (
    f"SELECT {_COLUMNS} WHERE m.ticket_id = $1 AND m.status IN ('confirmed', 'masked', 'deletion', 'update')"
)
_UPWARDS: Final = " ORDER BY m.id_ms, m.id_seq LIMIT $2"
_DOWNWARDS: Final = " ORDER BY m.id_ms DESC, m.id_seq DESC LIMIT $2"
HISTORY_BETWEEN: Final = _SHOWN + " AND (m.id_ms, m.id_seq) > ($3, $4) AND (m.id_ms, m.id_seq) < ($5, $6)" + _UPWARDS
HISTORY_AFTER: Final = _SHOWN + " AND (m.id_ms, m.id_seq) > ($3, $4)" + _UPWARDS
HISTORY_BEFORE: Final = _SHOWN + " AND (m.id_ms, m.id_seq) < ($3, $4)" + _DOWNWARDS
HISTORY_NEWEST: Final = _SHOWN + _DOWNWARDS
LOGGED_BETWEEN: Final = _LOGGED + " AND (m.id_ms, m.id_seq) > ($3, $4) AND (m.id_ms, m.id_seq) < ($5, $6)" + _UPWARDS
CHANGE_TARGET: Final = """
UPDATE messages SET status = CASE WHEN $4::text IS NULL THEN 'deleted' ELSE status END, body = coalesce($4, ''),
                    verdict = CASE WHEN $4::text IS NULL THEN NULL ELSE verdict END
WHERE ticket_id = $1 AND id_ms = $2 AND id_seq = $3 AND status IN ('confirmed', 'masked', 'held', 'rejected')
"""

FORGET: Final = "DELETE FROM messages WHERE ticket_id = $1 AND id_ms = $2 AND id_seq = $3"

# FoundMessage's order, with moved_to at the end.
FIND: Final = """
SELECT ticket_id, id_ms, id_seq, partition, sender_id, status, verdict::text AS verdict, original_id,
       client_message_id, trace_id, extract(epoch FROM sent_at)::bigint AS sent_at,
       floor(extract(epoch FROM archived_at) * 1000)::bigint AS archived_at_ms,
       CASE WHEN $4::boolean THEN body END AS body, moved_to
FROM messages WHERE ticket_id = $1 AND id_ms = $2 AND id_seq = $3
"""

_NEWEST: Final = """
SELECT id_ms, id_seq FROM messages WHERE ticket_id = $1 AND status IN ('confirmed', 'masked', 'deletion', 'update')
"""
_NEWEST_FIRST: Final = " ORDER BY id_ms DESC, id_seq DESC LIMIT 1"
NEWEST_OF_TICKET: Final = _NEWEST + _NEWEST_FIRST
NEWEST_BEFORE: Final = _NEWEST + " AND (id_ms, id_seq) < ($2, $3)" + _NEWEST_FIRST
NEWEST_OF_PARTITION: Final = """
SELECT id_ms, id_seq FROM messages WHERE partition = $1 ORDER BY id_ms DESC, id_seq DESC LIMIT 1
"""
JUDGED_AFTER: Final = f"""
SELECT {_COLUMNS}
WHERE m.partition = $1 AND (m.id_ms, m.id_seq) > ($2, $3)
  AND m.status IN ('confirmed', 'masked', 'held', 'rejected')
ORDER BY m.id_ms, m.id_seq LIMIT $4
"""
PARTITIONS: Final = "SELECT coalesce(max(partition) + 1, 0) AS count FROM messages"
CONFIRMED_AFTER: Final = f"""
SELECT {_COLUMNS}
WHERE m.partition = $1 AND (m.id_ms, m.id_seq) > ($2, $3)
  AND m.status IN ('confirmed', 'masked', 'deletion', 'update')
ORDER BY m.id_ms, m.id_seq LIMIT $4
"""
