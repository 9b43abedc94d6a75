"""Every read finds its rows through an index, however large the table has grown."""

from __future__ import annotations

from ticketwire.archive import statements
from ticketwire.archive.messages import Archive

TICKETS, SENDERS, KEYS = [f"t{n}" for n in range(500)], ["ann"] * 500, [f"key-{n}" for n in range(500)]
READS: dict[str, tuple[tuple[object, ...], str]] = {
    "READ_BACK": ((TICKETS, [*range(500)], [0] * 500), "messages_pkey"),
    "HOLDERS": ((TICKETS, SENDERS, KEYS), "messages_client_message"),
    "HISTORY_NEWEST": (("t1", 10), "messages_pkey"),
    "HISTORY_BEFORE": (("t1", 10, 2_000, 0), "messages_pkey"),
    "HISTORY_AFTER": (("t1", 10, 2_000, 0), "messages_pkey"),
    "HISTORY_BETWEEN": (("t1", 10, 1_000, 0, 2_000, 0), "messages_pkey"),
    "FIND": (("t1", 1, 0, False), "messages_pkey"),
    "NEWEST_OF_TICKET": (("t1",), "messages_pkey"),
    "NEWEST_OF_PARTITION": ((3,), "messages_partition"),
    "CONFIRMED_AFTER": ((3, 58_000, 0, 100), "messages_partition"),
}


async def test_reads_use_an_index(archive: Archive) -> None:
    """With the plans that prepared statements keep after their first few runs, on a table worth an index."""
    async with archive.database.transaction() as connection:
        await connection.execute(
            "INSERT INTO messages (ticket_id, id_ms, id_seq, partition, sender_id, body, status, sent_at, "
            "client_message_id) SELECT 't' || n % 2000, n, 0, n % 4, 'ann', repeat('x', 150), 'confirmed', now(), "
            "'key-' || n FROM generate_series(0, 59999) AS n"
        )
        await connection.execute("ANALYZE messages")
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        for name, (args, index) in READS.items():
            lines = await connection.fetch(f"EXPLAIN {getattr(statements, name)}", *args)
            plan = "\n".join([name, *(line[0] for line in lines)])
            assert index in plan, plan
            assert "Seq Scan" not in plan, plan
