"""Every Redis key and channel, and which partition owns a ticket. Nothing else builds a name.

| name | type | content | life |
| --- | --- | --- | --- |
| `ingest:{<p>}` | stream | accepted messages of partition p | entry by entry, until settled |
| `ingest:{<p>}:lease` | hash | owner, epoch, expires, done, settled | renewed by its worker |
| `ingest:{<p>}:dead` | stream | dead letters | until replayed or purged |
| `ingest:{<p>}:replayed` | hash | letter id -> what it was sent as (replay.lua) | until PostgreSQL has it: seconds |
| `ingest:{<p>}:idem:<ticket>:<sender>:<key>` | string | `<message id> <digest>` for a caller's idempotency key | 24 h |
| `ingest:{<p>}:idem:batch:<token>` | string | ids answered for one group commit | twice the retry window |
| `ingest:{<p>}:history` | string | drawn by lot once: another value means that keys were lost | for ever |
| `ingest:{<p>}:rate:<who>` | string | GCRA state of a sender on this partition | seconds |
| `workers` | sorted set | live workers, score = expiry in ms | heartbeat |
| `admin:job:{<id>}`, `:alive` | string | an admin job as JSON; there while it is worked on | 24 h; seconds |
| `admin:keeper` | string | which process looks after old dead letters | a minute |
| `ticketwire:meta` | hash | `partitions`, fixed at first start | for ever |
| `chat:<ticket>` | stream | confirmed log of a ticket | newest N, days after the last message |
| `channel:chat:<ticket>` | Pub/Sub | bare message id of each confirmed message | - |
| `channel:chat:<ticket>:events` | Pub/Sub (sharded on Cluster) | full events for delivery nodes | - |
| `chat:<ticket>:presence` | hash | who is here, by user and node (presence.lua) | minutes |
| `chat:<ticket>:cursors`, `:reads` | hash | acknowledged by user and device; read by user (marks.lua) | a month |
| `channel:canary:<node>` | Pub/Sub | a delivery node's message to itself | - |

`<p>` is written with at least two digits (`07`). On Redis Cluster the partition's hash tag stands in front
of the ticket (`chat:{07}:12345`), so that all a message touches lies in one slot and one script can settle it.
Ticket ids hold no colon, brace or glob character (`events.ID_PATTERN`): none can reach another key.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

WORKERS = "workers"
META = "ticketwire:meta"
KEEPER = "admin:keeper"
GROUP = "workers"  # the one consumer group of every ingest stream
CONSUMER = "owner"  # the one consumer name: what is pending under it belongs to whoever holds the lease

_LOG = "chat:"
_CHANNEL = "channel:chat:"
_EVENTS = ":events"


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of one deployment: they depend on the number of partitions and on Redis Cluster."""

    partitions: int
    cluster: bool = False

    def partition_of(self, ticket: str) -> int:
        """Say which partition orders *ticket*. crc32, because every producer language has it."""
        return crc32(ticket.encode()) % self.partitions

    def ingest(self, partition: int) -> str:
        return f"ingest:{{{partition:02d}}}"

    def lease(self, partition: int) -> str:
        return f"ingest:{{{partition:02d}}}:lease"

    def dead(self, partition: int) -> str:
        return f"ingest:{{{partition:02d}}}:dead"

    def replayed(self, partition: int) -> str:
        return f"ingest:{{{partition:02d}}}:replayed"

    def history(self, partition: int) -> str:
        return f"ingest:{{{partition:02d}}}:history"

    @staticmethod
    def job(job_id: str) -> str:
        """Its hash tag keeps `:alive`, appended by `bus.jobs`, in the same slot."""
        return f"admin:job:{{{job_id}}}"

    def idempotency(self, partition: int, ticket: str, sender: str, key: str) -> str:
        """*key* stands last and ids hold no colon, so two callers can never share a name."""
        return f"ingest:{{{partition:02d}}}:idem:{ticket}:{sender}:{key}"

    def batch(self, partition: int, token: str) -> str:
        return f"ingest:{{{partition:02d}}}:idem:batch:{token}"

    def rate(self, partition: int, who: str) -> str:
        return f"ingest:{{{partition:02d}}}:rate:{who}"

    def log(self, ticket: str) -> str:
        return self.log_prefix(self.partition_of(ticket)) + ticket

    def log_prefix(self, partition: int) -> str:
        """What stands before the ticket in a log's key; scripts append the ticket themselves."""
        return f"{_LOG}{{{partition:02d}}}:" if self.cluster else _LOG

    def channel(self, ticket: str) -> str:
        return self.channel_prefix(self.partition_of(ticket)) + ticket

    def channel_prefix(self, partition: int) -> str:
        return f"{_CHANNEL}{{{partition:02d}}}:" if self.cluster else _CHANNEL

    def events(self, ticket: str) -> str:
        return self.channel(ticket) + _EVENTS

    def ticket_of_events(self, channel: str) -> str:
        """Undo `events`: the ticket whose channel this is."""
        return channel.removesuffix(_EVENTS).rpartition(":")[2]

    def presence(self, ticket: str) -> str:
        return f"{self.log(ticket)}:presence"

    def cursors(self, ticket: str) -> str:
        return f"{self.log(ticket)}:cursors"

    def reads(self, ticket: str) -> str:
        return f"{self.log(ticket)}:reads"

    @staticmethod
    def canary(node: str) -> str:
        return f"channel:canary:{node}"
