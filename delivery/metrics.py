"""The delivery tier's metrics."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from ticketwire.telemetry.tally import Durations, Tally

SOCKETS = Gauge("delivery_sockets", "Open WebSockets")
REFUSED = Counter("delivery_refused", "Handshakes refused, by HTTP status", ["status"])
MEMORY = Gauge("delivery_memory_bytes", "Resident memory of this process")
MEMORY_MARK = Gauge("delivery_memory_mark_bytes", "Above it newcomers are refused; 0: never")
CLOSED = Counter("delivery_closed", "WebSockets closed by this node, by close code", ["code"])
ROOMS = Gauge("delivery_rooms", "Tickets subscribed")
EVENTS = Counter("delivery_events", "Events received from Redis, by what they were judged", ["verdict"])
FRAMES = Tally("delivery_frames", "Frames written to sockets")
BYTES = Tally("delivery_bytes", "Bytes of those frames")
HELD = Counter("delivery_held", "Times events of a busy ticket were held for a moment to share a write")
REPAIRS = Counter("delivery_repairs", "Times a ticket's log was read to fill a gap, by what gave it away", ["cause"])
REPAIRED = Counter("delivery_repaired_events", "Events that came from the log or the archive instead of Pub/Sub")
REPLAYED = Counter("delivery_replayed_events", "Events sent to sockets that were catching up")
IGNORED = Counter("delivery_ignored_frames", "Text frames of plain clients, which mean nothing")
SESSIONS = Gauge("delivery_sessions", "Sockets that speak ticketwire.v1 and are connected")
SEATS = Gauge("delivery_seats", "Subscriptions of those sockets")
STREAMS = Gauge("delivery_streams", "Open SSE streams")
RESUMES = Counter("delivery_resumes", "Subscriptions of v1 clients, by how they went on", ["resume"])
FRAME_ERRORS = Counter("delivery_frame_errors", "Error frames sent to v1 clients, by code", ["code"])
PAUSED = Counter("delivery_paused", "Times a v1 reader paused because its window was full")
SHED = Counter("delivery_shed", "Notices left out under load or for a slow socket", ["kind"])
RECEIPTS_OFF = Counter("delivery_receipts_withheld", "Receipts not sent because the ticket has too many readers")
MARKS = Counter("delivery_marks", "Positions of devices and readers written to Redis")
OUTAGES = Counter("delivery_backlog_outages", "Times a catch-up or repair began to wait for Redis or PostgreSQL")
RESUBSCRIBED = Counter("delivery_resubscribed", "Subscriptions made anew after a lost connection")
CANARY_AGE = Gauge("delivery_canary_age_seconds", "Since this node's last message to itself came back through Redis")
FAN_OUT = Durations(
    "delivery_fan_out_seconds",
    "From an event's arrival to its having been written to all sockets of its ticket here",
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1),
)
AGE = Durations(
    "delivery_age_seconds",
    "From a message's acceptance (its id, by Redis's clock) to its having been written to sockets (by ours)",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60),
)
