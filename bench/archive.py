"""How fast the archive takes batches, relative to asyncpg's executemany in the same run.

    python -m bench.archive [--rows 20000] [--rounds 5]

An embedded PostgreSQL with its disk writes on, one connection, batches of 500 messages of about 250 bytes, 2,000
tickets in turn. The methods take turns on an emptied table; each figure is the median of the rounds. CPU is that of
this process: what a worker has left for everything else.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from ticketwire.archive.messages import Archive, open_archive
from ticketwire.archive.migrate import upgrade_async
from ticketwire.archive.rows import ArchiveRow, Outcome
from ticketwire.embedded.postgres_server import EmbeddedPostgres

BATCH = 500
TICKETS = 2_000
Batches = list[list[ArchiveRow]]

ONE_ROW = """
INSERT INTO messages (ticket_id, id_ms, id_seq, partition, sender_id, body, status, sent_at,
                      verdict, original_id, client_message_id, trace_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, to_timestamp($8), $9, $10, $11, $12) ON CONFLICT DO NOTHING
"""


def batches(rows: int, *, keyed: bool) -> Batches:
    """Messages as a worker has them, in the order of one partition's stream."""
    made = [
        ArchiveRow(
            f"ticket-{n % TICKETS}", 1_700_000_000_000 + n // 3, n % 3, 3, f"user-{n % 97}", f"{n:06d} " + "x" * 150,
            "confirmed", 1_700_000_000 + n // 3_000, None, None, f"key-{n:020d}" if keyed else None, f"{n:032x}",
        )
        for n in range(rows)
    ]  # fmt: skip
    return [made[at : at + BATCH] for at in range(0, rows, BATCH)]


async def executemany(archive: Archive, given: Batches) -> None:
    async with archive.database.connection() as connection:
        for batch in given:
            await connection.executemany(ONE_ROW, batch)


def store(expected: Outcome) -> Callable[[Archive, Batches], Awaitable[None]]:
    async def run(archive: Archive, given: Batches) -> None:
        for batch in given:
            for one in await archive.store(batch):
                assert one.outcome is expected, one

    return run


async def timed(work: Awaitable[None], rows: int) -> tuple[float, float]:
    """Return rows per second and microseconds of this process's CPU per row."""
    started, cpu = time.perf_counter(), time.process_time()
    await work
    return rows / (time.perf_counter() - started), (time.process_time() - cpu) / rows * 1e6


async def measure(url: str, rows: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    await upgrade_async(url)
    plain, keyed = batches(rows, keyed=False), batches(rows, keyed=True)
    figures: dict[str, list[tuple[float, float]]] = {}
    async with open_archive(url, size=1, timeout_s=60) as archive:

        async def note(name: str, run: Callable[[Archive, Batches], Awaitable[None]], given: Batches) -> None:
            figures.setdefault(name, []).append(await timed(run(archive, given), rows))

        for _ in range(rounds):
            for label, given in (("", plain), (", with client ids", keyed)):
                for name, run in (("executemany", executemany), ("store, all new", store(Outcome.NEW))):
                    await archive.database.execute("TRUNCATE messages")
                    await archive.database.execute("CHECKPOINT")
                    await note(name + label, run, given)
                await note("store, all repeats" + label, store(Outcome.REPEAT), given)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="ticketwire-bench-") as folder,
        EmbeddedPostgres(Path(folder) / "postgres") as server,
    ):
        figures = asyncio.run(measure(server.url, options.rows, options.rounds))
    base = {
        label: statistics.median(rate for rate, _ in figures["executemany" + label])
        for label in ("", ", with client ids")
    }
    print(f"| {'batches of 500':<40} | rows/s | ratio | CPU us/row |")
    print(f"| {'-' * 40} | -----: | ----: | ---------: |")
    for name, runs in figures.items():
        rate = statistics.median(one for one, _ in runs)
        cpu = statistics.median(one for _, one in runs)
        label = ", with client ids" if name.endswith("ids") else ""
        print(f"| {name:<40} | {rate:6.0f} | {rate / base[label]:5.2f} | {cpu:10.2f} |")


if __name__ == "__main__":
    main()
