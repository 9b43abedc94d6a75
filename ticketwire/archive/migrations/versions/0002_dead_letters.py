"""The table of dead letters also remembers what was sent again, as what, by whom and why.

No tier of the version before uses this table, so its columns may change as well.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"

# Redis's ids are unsigned: once one at the very end of their range was buried, every later letter of its partition
# stands after it, beyond what a bigint holds.
COLUMNS = """
ALTER TABLE dead_letters
    ALTER COLUMN dead_id_ms TYPE numeric(20, 0),
    ALTER COLUMN dead_id_seq TYPE numeric(20, 0),
    ALTER COLUMN purged_at DROP NOT NULL,
    ALTER COLUMN purged_at DROP DEFAULT,
    ADD COLUMN error_class text NOT NULL DEFAULT '',
    ADD COLUMN kept_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN replayed_at timestamptz,
    ADD COLUMN replayed_as text COLLATE "C",    -- id of the entry it was sent as
    ADD COLUMN actor text,                      -- who purged or sent it last
    ADD COLUMN why text
"""
BY_ENTRY = "CREATE INDEX dead_letters_entry ON dead_letters (partition, original_id)"


def upgrade() -> None:
    op.execute(COLUMNS)
    op.execute(BY_ENTRY)
