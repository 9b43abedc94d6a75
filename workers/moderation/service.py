"""Moderation of one worker process: the policy file kept current, mutes, and a moderator for each partition."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ticketwire.archive.reviews import Mute, Reviews
from ticketwire.errors import SettingsError, Unavailable
from workers import metrics
from workers.moderation.chain import Chain, ExternalModerators, external_moderators
from workers.moderation.policy import PolicyError
from workers.moderation.policy_files import PolicyFile, default_policy_path
from workers.moderation.verdict import Action, Candidate, Hit, Moderator, Verdict

log = logging.getLogger(__name__)

POLL_S = 1.0  # how late a changed policy or a mute may take effect
MUTE_RULE = "muted"


@dataclass(slots=True)
class Mutes:
    """Who is muted, as last read from the archive."""

    by_sender: dict[str, list[Mute]] = field(default_factory=dict)

    def replace(self, mutes: Sequence[Mute]) -> None:
        found: dict[str, list[Mute]] = {}
        for mute in mutes:
            found.setdefault(mute.sender_id, []).append(mute)
        self.by_sender = found

    def covers(self, candidate: Candidate) -> bool:
        """Whether the sender was muted when ingest accepted the message."""
        mutes = self.by_sender.get(candidate.sender_id, ())
        return any(mute.from_ms <= candidate.sent_at_ms < mute.until_ms for mute in mutes)


@dataclass(slots=True)
class MutedOut:
    """A moderator that rejects what muted senders send and asks another one about the rest."""

    mutes: Mutes
    inner: Moderator

    async def judge(self, batch: Sequence[Candidate]) -> list[Verdict]:
        verdicts = await self.inner.judge(batch)
        if not self.mutes.by_sender:
            return verdicts
        hit = Hit(MUTE_RULE, 1, Action.REJECT)
        return [
            Verdict(Action.REJECT, verdict.text, (hit, *verdict.hits)) if self.mutes.covers(candidate) else verdict
            for candidate, verdict in zip(batch, verdicts, strict=True)
        ]


class Moderation:
    """What the partitions of a worker share. Made by `open_moderation`."""

    def __init__(self, policy: PolicyFile, external: ExternalModerators, reviews: Reviews) -> None:
        self._policy = policy
        self._external = external
        self._reviews = reviews
        self._mutes = Mutes()
        self._reloading: asyncio.Future[bool] | None = None  # kept, or nobody would hear of its failure

    def for_partition(self) -> Moderator:
        """Return a moderator with a flood memory of its own: a takeover begins with an empty one."""
        return MutedOut(self._mutes, Chain(self._policy, external=self._external))

    async def watch(self) -> None:
        """Follow the policy file and the mutes, for ever. An outage leaves them as they were."""
        while True:
            await asyncio.to_thread(self._policy.poll)
            try:
                await self.refresh_mutes()
            except Unavailable:
                pass  # partitions wait for the same PostgreSQL and say so
            await asyncio.sleep(POLL_S)

    async def refresh_mutes(self) -> None:
        # An entry may lie on its stream for a while: mutes that ended lately still count for it.
        self._mutes.replace(await self._reviews.muted(time.time_ns() // 1_000_000 - 86_400_000))

    def reload(self) -> None:
        """Read the policy file now, as SIGHUP asks for; in a thread, since large lists take a while."""
        log.info("SIGHUP: reading the policy")
        self._reloading = asyncio.get_running_loop().run_in_executor(None, self._policy.reload)


@asynccontextmanager
async def open_moderation(path: Path | None, reviews: Reviews) -> AsyncIterator[Moderation]:
    """Load the policy at *path*, the default one if None, and follow it. Raises SettingsError for a bad file."""
    try:
        policy = PolicyFile(path or default_policy_path(), _observe)
    except PolicyError as exc:
        raise SettingsError(f"TICKETWIRE_POLICY: {exc}") from exc
    metrics.POLICY_BAD.set(0)
    loop = asyncio.get_running_loop()
    async with external_moderators() as external, asyncio.TaskGroup() as group:
        moderation = Moderation(policy, external, reviews)
        watching = group.create_task(moderation.watch(), name="policy")
        loop.add_signal_handler(signal.SIGHUP, moderation.reload)
        try:
            yield moderation
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
            watching.cancel()


def _observe(policy: PolicyFile) -> None:
    """Tell the metrics how the last reading of the policy went."""
    metrics.POLICY_BAD.set(policy.error is not None)
    metrics.POLICY_READ.labels("bad" if policy.error else "good").inc()
