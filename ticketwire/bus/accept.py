"""Put a group of messages on their ingest streams: one script call, and one wait for the durability asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from redis.exceptions import ResponseError

from schemas.message_id import MessageId
from ticketwire.bus.bus import Bus
from ticketwire.bus.connection import Argument, Command
from ticketwire.errors import Rejected, SettingsError, TicketwireError, Unavailable
from ticketwire.settings import SharedSettings

WAITAOF_SINCE = (7, 2)


class Offer(NamedTuple):
    """One message on its way to its ingest stream."""

    partition: int
    key: str  # `Keys.idempotency`, or "" when the caller named no key
    digest: str  # of the message, without spaces; "" without a key
    fields: list[str]  # `encode_submitted`


class Acceptor:
    """Makes the calls. *retry_ms* is how long a call may be repeated, *remember_ms* how long a caller's key lives."""

    def __init__(self, bus: Bus, settings: SharedSettings, *, retry_ms: int, remember_ms: int) -> None:
        self._bus = bus
        self._lives = (2 * retry_ms, remember_ms)
        self._durability = settings.durability
        self._wait_ms = settings.durability_timeout_ms
        wait: dict[str, tuple[Command, ...]] = {
            "redis": (),
            "fsync": (("WAITAOF", 1, 0, self._wait_ms),),
            "replica": (("WAIT", 1, self._wait_ms),),
        }
        self._then = wait[self._durability]
        self._timeout = (settings.redis_timeout_ms + (self._wait_ms if self._then else 0)) / 1000

    async def check(self) -> None:
        """Raise SettingsError when this Redis cannot do what the durability asks for, Unavailable when it is away."""
        if self._durability != "fsync":
            return
        version = ".".join(map(str, self._bus.features.version))
        if not self._bus.features.waitaof:
            raise SettingsError(
                f"TICKETWIRE_DURABILITY is 'fsync', which needs Redis 7.2 or later, found {version}; "
                "'redis' and 'replica' work with it"
            )
        for node in await self._bus.topology.all_nodes():
            (reply,) = await node.exchange([("INFO", "persistence")], self._timeout)
            if "aof_enabled:1" not in reply:
                raise SettingsError(
                    "TICKETWIRE_DURABILITY is 'fsync', but this Redis keeps no append-only file: set `appendonly yes`"
                )

    async def accept(self, token: str, offers: Sequence[Offer]) -> list[str | TicketwireError]:
        """Store *offers* in order; return for each its message id, or why it alone was refused.

        Repeating a call under the same *token* with the same offers stores nothing twice, and waits again. On
        Redis Cluster all offers must be of one partition. Raises Unavailable, after which the messages may or may
        not be stored; its code is `not_durable` when they are stored but the wait for the durability failed.
        """
        keys = self._bus.keys
        names = [keys.batch(offers[0].partition, token)]
        places: dict[int, int] = {}  # partition -> index of its stream in KEYS, which Lua counts from 1
        args: list[Argument] = [*self._lives]
        for partition, key, digest, fields in offers:
            place = places.get(partition)
            if place is None:
                names.append(keys.ingest(partition))
                place = places[partition] = len(names)
            args += (place, key, digest, len(fields))
            args += fields
        try:
            answers, *waited = await self._bus.script("accept", names, args, *self._then, timeout=self._timeout)
        except ResponseError as exc:
            if self._then and "WAIT" in str(exc):  # for instance: the append-only file was switched off meanwhile
                raise self._not_durable(str(exc)) from exc
            raise
        if waited:
            # WAIT returns the number of replicas, WAITAOF first whether the server's own disk has it.
            have = waited[0] if self._durability == "replica" else waited[0][0]
            if have < 1:
                what = "replica" if self._durability == "replica" else "disk"
                raise self._not_durable(f"no {what} confirmed it within {self._wait_ms:,} ms")
        return [_understood(answer) for answer in answers]

    def _not_durable(self, why: str) -> Unavailable:
        return Unavailable(
            f"durability '{self._durability}' was not reached: {why}; the message may be stored and delivered, "
            "so send it again under the same idempotency key",
            code="not_durable",
        )


def _understood(answer: str) -> str | TicketwireError:
    if answer[0] == "!":
        return Rejected(
            "idempotency_conflict",
            f"this idempotency key was used for message {answer[1:]}, whose sender, ticket or text is another; "
            "a new message needs a new key",
        )
    if answer[0] == "-":
        return Unavailable(f"Redis refused this message alone: {answer[1:]}")
    return answer


async def is_pending(bus: Bus, ticket: str, message_id: MessageId) -> bool:
    """Say whether a message of *ticket* is accepted and not yet settled. Raises Unavailable."""
    stream, at = bus.keys.ingest(bus.keys.partition_of(ticket)), str(message_id)
    found = await bus.command(stream, "XRANGE", stream, at, at)
    if not found:
        return False
    fields = found[0][1]
    return dict(zip(fields[::2], fields[1::2], strict=True)).get("ticket_id") == ticket
