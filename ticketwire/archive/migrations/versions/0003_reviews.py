"""What people decide about held messages, and whom they mute."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

# The primary key is the decision's uniqueness: of two reviewers one comes second.
REVIEWS = """
CREATE TABLE reviews (
    ticket_id  text COLLATE "C" NOT NULL,
    id_ms      bigint NOT NULL,
    id_seq     bigint NOT NULL,
    decision   text COLLATE "C" NOT NULL CHECK (decision IN ('approve', 'reject')),
    actor      text NOT NULL,
    why        text NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT now(),
    sent_as    text COLLATE "C",          -- approved: the id under which it took its place in the log
    PRIMARY KEY (ticket_id, id_ms, id_seq)
)
"""
# Approved and not yet in the log: few at any time. Whoever approved may have died before sending.
REVIEWS_UNSENT = "CREATE INDEX reviews_unsent ON reviews (decided_at) WHERE decision = 'approve' AND sent_as IS NULL"
# No key, only the reviewers' list, oldest first.
MESSAGES_HELD = "CREATE INDEX messages_held ON messages (id_ms, id_seq, ticket_id) WHERE status = 'held'"
MUTES = """
CREATE TABLE mutes (
    sender_id   text COLLATE "C" NOT NULL,
    from_ms     bigint NOT NULL,          -- Unix milliseconds, as message ids count them
    until_ms    bigint NOT NULL,
    actor       text NOT NULL,
    why         text NOT NULL,
    PRIMARY KEY (sender_id, from_ms)
)
"""
MUTES_BY_END = "CREATE INDEX mutes_until ON mutes (until_ms)"


# A deletion or an update has a place of its own in the log and therefore a row; both only widen what is allowed.
STATUS = """
ALTER TABLE messages DROP CONSTRAINT messages_status, ADD CONSTRAINT messages_status CHECK
    (status IN ('confirmed', 'masked', 'held', 'rejected', 'deleted', 'moved', 'deletion', 'update'))
"""


def upgrade() -> None:
    for statement in (STATUS, REVIEWS, REVIEWS_UNSENT, MESSAGES_HELD, MUTES, MUTES_BY_END):
        op.execute(statement)
