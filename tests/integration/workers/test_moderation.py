"""Moderation in the worker: what is masked, held, rejected, approved or muted on its way to the log."""

from __future__ import annotations

import asyncio
import io
import json
import time
from pathlib import Path

import pytest

from schemas.message_id import MessageId
from tests.pipeline import archived, drained, everywhere, letters, moderating, shown, submit
from tests.until import until
from ticketwire.archive.audit import Audit
from ticketwire.archive.messages import Archive
from ticketwire.archive.reviews import Reviews
from ticketwire.bus.bus import Bus
from ticketwire.errors import Rejected, SettingsError
from workers.moderation.rejudge import parse_duration, rejudge
from workers.moderation.service import open_moderation
from workers.settings import WorkerSettings

POLICY = """
rules:
  - {id: cards, version: 1, kind: personal_data, action: mask, categories: [card]}
  - {id: wait, version: 3, kind: terms, action: hold, terms: [lottery]}
  - {id: never, version: 1, kind: terms, action: reject, terms: [forbiddenword]}
"""
CARD = "4111 1111 1111 1111"


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY, encoding="utf-8")
    return path


async def status(core: tuple[Bus, Archive], ticket: str, message_id: str) -> str:
    found = await core[1].find(ticket, MessageId.parse(message_id))
    assert found is not None
    return found.status


async def test_a_card_number_is_masked_and_stands_nowhere_afterwards(
    core: tuple[Bus, Archive], settings: WorkerSettings, policy: Path
) -> None:
    async with moderating(core, settings, policy):
        first = await submit(core[0], "T1", f"my card is {CARD}, thanks", client_message_id="k1")
        second = await submit(core[0], "T1", f"again {CARD}", client_message_id="k1")  # buried as a duplicate
        await drained(core[0])
    assert await shown(core[0], "T1") == await archived(core[1], "T1") == [(first, "my card is [card], thanks")]
    assert await status(core, "T1", first) == "masked"
    assert [letter["entry_id"] for letter in await letters(core[0])] == [second]
    found = await everywhere(core)
    assert "[card]" in found
    assert CARD not in found
    assert CARD.replace(" ", "") not in found


async def test_held_and_rejected_messages_are_archived_recorded_and_never_shown(
    core: tuple[Bus, Archive], settings: WorkerSettings, policy: Path
) -> None:
    async with moderating(core, settings, policy):
        held = await submit(core[0], "T1", "you won the lottery")
        rejected = await submit(core[0], "T1", "a forbiddenword")
        fine = await submit(core[0], "T1", "hello")
        await drained(core[0])
    assert await shown(core[0], "T1") == await archived(core[1], "T1") == [(fine, "hello")]
    assert [await status(core, "T1", one) for one in (held, rejected)] == ["held", "rejected"]
    audit = Audit(core[1].database)
    rows = {row.subject: (row.actor, row.action) for row in await audit.page(None, limit=10)}
    assert rows == {f"message T1/{held}": ("wait@3", "hold"), f"message T1/{rejected}": ("never@1", "reject")}
    assert (await audit.verify_chain()).whole


async def approve(core: tuple[Bus, Archive], ticket: str, message_id: str, who: str = "ann") -> None:
    """As the admin API does: decide, then send it again."""
    held = await Reviews(core[1].database).decide(ticket, MessageId.parse(message_id), "approve", who, "harmless")
    await submit(core[0], ticket, held.body, original_id=message_id)


async def test_an_approved_message_takes_its_place_at_the_end_under_a_new_id(
    core: tuple[Bus, Archive], settings: WorkerSettings, policy: Path
) -> None:
    async with moderating(core, settings, policy):
        held = await submit(core[0], "T1", f"lottery with {CARD}")
        later = await submit(core[0], "T1", "hello")
        await drained(core[0])
        await approve(core, "T1", held)
        await drained(core[0])
        log = await shown(core[0], "T1")
        assert [body for _, body in log] == ["hello", "lottery with [card]"]
        assert log[0][0] == later
        await submit(core[0], "T1", "lottery", original_id=held)  # sent twice by somebody who died in between
        await drained(core[0])
    assert await shown(core[0], "T1") == await archived(core[1], "T1") == log
    assert [letter["reason"] for letter in await letters(core[0])] == ["duplicate"]
    found = await core[1].find("T1", MessageId.parse(held))
    assert found is not None
    assert (str(found.message_id), found.status) == (log[1][0], "confirmed")


async def test_two_reviewers_cannot_both_decide(
    core: tuple[Bus, Archive], settings: WorkerSettings, policy: Path
) -> None:
    async with moderating(core, settings, policy):
        held = MessageId.parse(await submit(core[0], "T1", "lottery"))
        await drained(core[0])
    reviews = Reviews(core[1].database)
    tries = [
        reviews.decide("T1", held, decision, who, "x") for decision, who in (("approve", "ann"), ("reject", "bob"))
    ]
    results = await asyncio.gather(*tries, return_exceptions=True)
    (refused,) = [r for r in results if isinstance(r, Rejected)]
    assert refused.code == "already_decided"
    with pytest.raises(Rejected, match="not_found"):
        await reviews.decide("T1", MessageId(1, 1), "approve", "ann", "x")


async def test_a_dead_letter_sent_again_is_judged_like_any_other(
    core: tuple[Bus, Archive], settings: WorkerSettings, policy: Path
) -> None:
    """original_id alone opens no door: only a recorded approval does."""
    async with moderating(core, settings, policy):
        await submit(core[0], "T1", "a forbiddenword", original_id="1-0")
        await drained(core[0])
    assert await shown(core[0], "T1") == []


async def test_what_a_muted_sender_sends_is_rejected_until_the_mute_ends(
    core: tuple[Bus, Archive], settings: WorkerSettings, policy: Path
) -> None:
    reviews = Reviews(core[1].database)
    async with moderating(core, settings, policy) as moderation:
        now = time.time_ns() // 1_000_000
        await reviews.mute("1", now - 1_000, now + 3_600_000, "ann", "shouting")
        await moderation.refresh_mutes()
        muted = await submit(core[0], "T1", "hello")
        await drained(core[0])
        assert await reviews.unmute("1", time.time_ns() // 1_000_000, "ann", "calmed down")
        await asyncio.sleep(0.002)  # the mute ends with a millisecond; the message must come after it
        await moderation.refresh_mutes()
        fine = await submit(core[0], "T1", "sorry")
        await drained(core[0])
    assert await shown(core[0], "T1") == [(fine, "sorry")]
    assert await status(core, "T1", muted) == "rejected"


async def test_a_changed_policy_is_followed_and_a_bad_one_is_not(
    core: tuple[Bus, Archive], settings: WorkerSettings, policy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with moderating(core, settings, policy):
        policy.write_text(POLICY + "  - {id: new, version: 1, kind: terms, action: reject, terms: [hello]}\n")

        async def refused() -> bool:
            await submit(core[0], "T1", "hello")
            await drained(core[0])
            rows = await Audit(core[1].database).page(None, limit=1)
            return bool(rows) and rows[0].actor == "new@1"

        await until(refused, every_s=0.2)
        policy.write_text("rules: 7")
        await until(lambda: "policy refused" in caplog.text)
        assert await refused(), "the old policy stays in force"


async def test_a_new_policy_can_be_tried_on_what_is_archived(
    core: tuple[Bus, Archive], settings: WorkerSettings, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with moderating(core, settings, policy):
        ids = [await submit(core[0], "T1", text) for text in ("lottery", "hello", f"card {CARD}")]
        await drained(core[0])
    stricter = policy.with_name("stricter.yaml")
    stricter.write_text("rules:\n  - {id: greet, version: 1, kind: terms, action: reject, terms: [hello]}\n")
    monkeypatch.setenv("TICKETWIRE_DATABASE_URL", settings.shared.database_url.get_secret_value())
    out, err = io.StringIO(), io.StringIO()
    assert await asyncio.to_thread(rejudge, stricter, parse_duration("24h"), out, err) == 0
    found = {line["message_id"]: (line["was"], line["action"]) for line in map(json.loads, out.getvalue().splitlines())}
    assert found == {ids[0]: ("hold", "allow"), ids[1]: ("allow", "reject")}
    assert "3 messages judged, 2 would change" in err.getvalue()


async def test_a_worker_does_not_start_with_a_bad_policy(tmp_path: Path, core: tuple[Bus, Archive]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("rules:\n  - {id: x, version: 1, kind: nonsense, action: mask}\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"TICKETWIRE_POLICY: .*bad.yaml"):
        async with open_moderation(path, Reviews(core[1].database)):
            pass
