"""Every read finds its rows through an index, however large the table has grown."""

from __future__ import annotations

import pytest

from ticketwire.archive import statements
from ticketwire.archive.messages import Archive
from ticketwire.archive.rows import ArchiveRow

TICKETS, SENDERS, KEYS = [f"t{n}" for n in range(100)], ["ann"] * 100, [f"key-{n}" for n in range(100)]


@pytest.mark.parametrize(
    ("name", "args", "index"),
    [
        ("READ_BACK", (TICKETS, [*range(100)], [0] * 100), "messages_pkey"),
        ("HOLDERS", (TICKETS, SENDERS, KEYS), "messages_client_message"),
        ("HISTORY_NEWEST", ("t1", 10), "messages_pkey"),
        ("HISTORY_BEFORE", ("t1", 10, 2_000, 0), "messages_pkey"),
        ("HISTORY_AFTER", ("t1", 10, 2_000, 0), "messages_pkey"),
        ("HISTORY_BETWEEN", ("t1", 10, 1_000, 0, 2_000, 0), "messages_pkey"),
        ("FIND", ("t1", 1, 0, False), "messages_pkey"),
        ("NEWEST_OF_TICKET", ("t1",), "messages_pkey"),
        ("NEWEST_OF_PARTITION", (3,), "messages_partition"),
        ("CONFIRMED_AFTER", (3, 2_900, 0, 100), "messages_partition"),
    ],
)
async def test_reads_use_an_index(archive: Archive, name: str, args: tuple[object, ...], index: str) -> None:
    """With the plan that a prepared statement keeps after its first few runs."""
    await archive.store(
        [
            ArchiveRow(f"t{n % 100}", n, 0, n % 4, "ann", "hello", "confirmed", 0, client_message_id=f"key-{n}")
            for n in range(5_000)
        ]
    )
    await archive.database.execute("ANALYZE messages")
    async with archive.database.transaction() as connection:
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        lines = [row[0] for row in await connection.fetch(f"EXPLAIN {getattr(statements, name)}", *args)]
    plan = "\n".join(lines)
    assert index in plan, plan
    assert "Seq Scan" not in plan, plan
