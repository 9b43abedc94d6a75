"""The worker tier's metrics."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

PARTITIONS = Gauge("workers_partitions", "Partitions owned by this worker")
TAKEOVERS = Counter("workers_takeovers", "Leases taken")
FENCED = Counter("workers_fenced", "Times a script refused this worker because another one owns the partition")
BATCH = Histogram("workers_batch_entries", "Entries handled at once", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500))
HANDLE = Histogram(
    "workers_handle_seconds",
    "Time from having read a batch to having confirmed it",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
SETTLED = Counter("workers_settled", "Entries settled, by fate", ["fate"])
BURIED = Counter("workers_buried", "Entries written to a dead-letter stream, by reason", ["reason"])
RECOVERED = Counter("workers_recovered", "Entries found pending and handled again")
RENAMED = Counter("workers_renamed", "Entries whose id their log refused, appended under a new one")
OUTAGES = Counter("workers_outages", "Times a partition began to wait for Redis, PostgreSQL or a moderator")
WAITING = Gauge("workers_waiting_partitions", "Partitions waiting for Redis, PostgreSQL or a moderator")
LOST_GROUPS = Counter("workers_lost_groups", "Times an ingest stream or its consumer group was found missing")
REDIS_LOST = Counter(
    "workers_redis_lost_messages",
    "Confirmed messages that Redis had lost and that were confirmed again from PostgreSQL",
)
VERDICTS = Counter("workers_verdicts", "Verdicts other than allow, by the deciding rule", ["action", "rule"])
POLICY_READ = Counter("workers_policy_read", "Times the policy file was read again", ["outcome"])
POLICY_BAD = Gauge("workers_policy_bad", "1 while the policy file is bad and an older policy is in force")
