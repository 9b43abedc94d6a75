"""Messages, the audit chain, and the dead letters that were purged from Redis.

A later migration may only add: tiers of the version before run on the new schema during a rolling update.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None

# Ids are ASCII and only ever compared byte by byte: COLLATE "C" is the fastest order there is, and an update of
# the system's locales cannot corrupt an index that does not use them.
MESSAGES = """
CREATE TABLE messages (
    ticket_id         text COLLATE "C" NOT NULL,
    id_ms             bigint NOT NULL,              -- message id: Unix milliseconds ...
    id_seq            bigint NOT NULL,              -- ... and sequence
    partition         integer NOT NULL,             -- whose ingest stream it came from
    sender_id         text COLLATE "C" NOT NULL,
    body              text NOT NULL,                -- as shown: masked where the verdict says so; empty when deleted
    status            text COLLATE "C" NOT NULL,
    verdict           jsonb,                        -- rule, version, action; null: allowed without remark
    original_id       text COLLATE "C",             -- id it was accepted under first, if it was sent again
    moved_to          text COLLATE "C",             -- status moved: the id under which the log took it
    client_message_id text COLLATE "C",
    trace_id          text COLLATE "C",
    sent_at           timestamptz NOT NULL,         -- what readers are shown, whole seconds
    archived_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (ticket_id, id_ms, id_seq),
    CONSTRAINT messages_status CHECK (status IN ('confirmed', 'masked', 'held', 'rejected', 'deleted', 'moved')),
    CONSTRAINT messages_id CHECK (id_ms >= 0 AND id_seq >= 0)
)
"""

# Partial, so that messages without a key cost nothing here; NULLs would not collide anyway.
MESSAGES_BY_CLIENT_MESSAGE = """
CREATE UNIQUE INDEX messages_client_message ON messages (ticket_id, sender_id, client_message_id)
WHERE client_message_id IS NOT NULL
"""

# The one index that does not start with ticket_id. It is no key: it guarantees nothing across tickets, so when the
# table is divided by ticket each part simply has its own, and a new owner of a partition asks them all once.
# Every status is in it: an id that the archive holds in any state must never be given out again.
MESSAGES_BY_PARTITION = "CREATE INDEX messages_partition ON messages (partition, id_ms, id_seq)"

# `audit_head` is one row: it serialises writers, so the chain is linear and its ids have no holes, and it remembers
# the end of the chain, so a removed last row is missed.
AUDIT = """
CREATE TABLE audit (
    id        bigint PRIMARY KEY,
    at        timestamptz NOT NULL,
    actor     text NOT NULL,          -- who: a person, a key, or rule@version
    action    text NOT NULL,
    subject   text NOT NULL,          -- what it was done to
    why       text NOT NULL,
    detail    jsonb NOT NULL,
    prev_hash bytea NOT NULL,
    hash      bytea NOT NULL          -- SHA-256 over prev_hash and the columns above
)
"""
AUDIT_BY_SUBJECT = "CREATE INDEX audit_subject ON audit (subject, id)"
AUDIT_HEAD = """
CREATE TABLE audit_head (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    id        bigint NOT NULL,
    hash      bytea NOT NULL
)
"""
AUDIT_START = "INSERT INTO audit_head (id, hash) VALUES (0, decode(repeat('00', 32), 'hex'))"

# Keyed by partition, not by ticket: what could not be decoded has no ticket.
# Names and values are bytes, because an entry that is no message may hold anything.
DEAD_LETTERS = """
CREATE TABLE dead_letters (
    partition    integer NOT NULL,
    dead_id_ms   bigint NOT NULL,       -- its id on the dead-letter stream
    dead_id_seq  bigint NOT NULL,
    original_id  text COLLATE "C" NOT NULL,
    ticket_id    text COLLATE "C",
    reason       text COLLATE "C" NOT NULL,
    error        text NOT NULL,
    stage        text NOT NULL,
    attempts     integer NOT NULL,
    first_at     timestamptz NOT NULL,
    last_at      timestamptz NOT NULL,
    worker       text NOT NULL,
    trace_id     text COLLATE "C",
    field_names  bytea[] NOT NULL,
    field_values bytea[] NOT NULL,
    purged_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (partition, dead_id_ms, dead_id_seq),
    CONSTRAINT dead_letters_fields CHECK (cardinality(field_names) = cardinality(field_values))
)
"""
DEAD_LETTERS_BY_TICKET = "CREATE INDEX dead_letters_ticket ON dead_letters (ticket_id) WHERE ticket_id IS NOT NULL"


def upgrade() -> None:
    for statement in (
        MESSAGES,
        MESSAGES_BY_CLIENT_MESSAGE,
        MESSAGES_BY_PARTITION,
        AUDIT,
        AUDIT_BY_SUBJECT,
        AUDIT_HEAD,
        AUDIT_START,
        DEAD_LETTERS,
        DEAD_LETTERS_BY_TICKET,
    ):
        op.execute(statement)
