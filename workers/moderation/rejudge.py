"""`ticketwire policy try --since 24h`: what a policy would do to the messages that are archived already."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, TextIO

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.message_id import MessageId
from ticketwire.archive.messages import Archive, open_archive
from ticketwire.archive.rows import ArchiveRow
from ticketwire.settings import DatabaseUrl, load
from workers.moderation.flood import FloodMemory
from workers.moderation.policy_files import load_policy
from workers.moderation.rules import RuleSet
from workers.moderation.verdict import Candidate

PAGE: Final = 500
_ACTIONS: Final = {"confirmed": "allow", "masked": "mask", "held": "hold", "rejected": "reject"}
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class ArchiveSettings(BaseSettings):
    """The one thing this needs to know."""

    model_config = SettingsConfigDict(env_prefix="TICKETWIRE_", frozen=True, extra="ignore")

    database_url: DatabaseUrl = Field(description="postgresql://user:password@host:5432/name")


def parse_duration(text: str) -> int:
    """Read `30m`, `24h` or `7d`; return milliseconds. Raises ValueError."""
    match = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if match is None:
        raise ValueError(f"found {text[:40]!r}, allowed is a number with s, m, h or d, such as 24h")
    return int(match[1]) * _UNITS[match[2]] * 1_000


def rejudge(path: Path, since_ms: int, out: TextIO, err: TextIO) -> int:
    """Judge what was archived in the last *since_ms* by the policy at *path*; print a line of JSON for each change.

    The archive holds masked texts, so what was masked once is not found again: a message counts as changed when the
    policy would treat its text more strictly, or would no longer hold or reject it. Raises PolicyError,
    SettingsError and Unavailable.
    """
    rules = RuleSet(load_policy(path))
    url = load(ArchiveSettings).database_url.get_secret_value()
    judged, changed = asyncio.run(_rejudge(rules, url, time.time_ns() // 1_000_000 - since_ms, out))
    print(f"{judged:,} messages judged, {changed:,} would change", file=err)
    return 0


async def _rejudge(rules: RuleSet, url: str, from_ms: int, out: TextIO) -> tuple[int, int]:
    judged = changed = 0
    async with open_archive(url, size=1) as archive:
        for partition in range(await archive.partitions()):
            memory = FloodMemory()
            async for page in _pages(archive, partition, from_ms):
                candidates = [Candidate(r.ticket_id, r.sender_id, r.body, r.id_ms) for r in page]
                for row, verdict in zip(page, rules.judge(candidates, memory), strict=True):
                    judged += 1
                    was, now = _ACTIONS[row.status], verdict.action.value
                    if now == was or (was == "mask" and now == "allow"):
                        continue
                    changed += 1
                    line: dict[str, object] = {
                        "ticket_id": row.ticket_id,
                        "message_id": str(row.message_id),
                        "was": was,
                        "action": now,
                    }
                    line |= {"rules": [hit.rule for hit in verdict.hits], "text": verdict.text}
                    print(json.dumps(line, ensure_ascii=False), file=out)
    return judged, changed


async def _pages(archive: Archive, partition: int, from_ms: int) -> AsyncIterator[list[ArchiveRow]]:
    after = MessageId(max(0, from_ms - 1), 2**63 - 1)
    while page := await archive.judged_after(partition, after, PAGE):
        yield page
        after = page[-1].message_id
