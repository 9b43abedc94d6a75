"""The ingest tier's metrics."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

ACCEPTED = Counter("ingest_accepted", "Messages answered with an id, repeats under an idempotency key included")
REFUSED = Counter("ingest_refused", "Messages and requests refused, by code", ["code"])
REQUEST = Histogram(
    "ingest_request_seconds",
    "Time from the request's head to its answer, POST /chat/send",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
GROUP = Histogram("ingest_group_messages", "Messages in one Redis call", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500))
WAITING = Gauge("ingest_waiting_messages", "Messages waiting for a Redis call, this moment")
RETRIES = Counter("ingest_retries", "Redis calls tried again under the same batch key")
BACKLOG = Gauge("ingest_backlog_entries", "Entries accepted and not yet settled, all partitions")
BACKLOG_MAX = Gauge("ingest_backlog_entries_max", "Entries accepted and not yet settled, fullest partition")
MEMORY = Gauge("ingest_redis_memory_ratio", "Used share of maxmemory, fullest Redis server; 0 without a limit")
CLOSED = Gauge("ingest_closed_partitions", "Partitions whose messages are refused for backlog or memory")
DEAD_LETTERS = Gauge("ingest_dead_letters", "Dead letters of a partition, looked at every few seconds", ["partition"])
LOST = Counter(
    "ingest_lost_after_failover",
    "Messages that this node answered with an id and that Redis then lost: found neither there nor in PostgreSQL",
)
