"""What people decide through the API: held messages, shown messages taken back, senders muted."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ingest.admin import people
from schemas.message_id import MessageId
from tests.integration.admin.harness import Api, Core
from tests.pipeline import archived, drained, everywhere, moderating, shown, submit
from ticketwire.archive.reviews import Reviews
from ticketwire.bus import log
from ticketwire.bus.accept import Acceptor
from workers.settings import WorkerSettings

POLICY = "rules:\n  - {id: wait, version: 1, kind: terms, action: hold, terms: [lottery]}\n"


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY, encoding="utf-8")
    return path


async def held(core: Core, api: Api, text: str = "lottery") -> str:
    entry_id = await submit(core[0], "T1", text, client_message_id="k-" + str(len(text)))
    await drained(core[0])
    return entry_id


async def test_a_held_message_is_listed_and_shown_once_it_is_approved(
    core: Core, api: Api, settings: WorkerSettings, policy: Path
) -> None:
    async with moderating(core, settings, policy):
        entry_id = await held(core, api)
        await submit(core[0], "T1", "hello")
        (listed,) = (await api.get("held"))["held"]
        assert (listed["message_id"], listed["message"]) == (entry_id, "lottery")
        assert listed["verdict"]["hits"][0]["rule"] == "wait"
        answer = await api.post(f"held/T1/{entry_id}/approve", why="a real winner")
        assert answer.status_code == 200, answer.text
        await drained(core[0])
        assert [body for _, body in await shown(core[0], "T1")] == ["hello", "lottery"]
        assert (await shown(core[0], "T1"))[1][0] == answer.json()["sent_as"]
        assert (await api.get("held"))["held"] == []
        again = await api.post(f"held/T1/{entry_id}/reject", why="late")
        assert (again.status_code, again.json()["code"]) == (409, "already_decided")
        assert "ann" in again.json()["error"], "who was first is named"
    record = await api.get("audit", action="approve")
    assert [(row["actor"], row["why"]) for row in record["rows"]] == [("ann", "a real winner")]


async def test_a_rejected_message_is_never_shown(core: Core, api: Api, settings: WorkerSettings, policy: Path) -> None:
    async with moderating(core, settings, policy):
        entry_id = await held(core, api)
        answer = await api.post(f"held/T1/{entry_id}/reject", why="spam")
        assert answer.json()["status"] == "rejected"
        await drained(core[0])
        assert await shown(core[0], "T1") == []


async def test_an_approval_whose_process_died_before_sending_is_sent_by_another(
    core: Core, settings: WorkerSettings, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "UNSENT_AFTER_S", 0.0)
    reviews = Reviews(core[1].database)
    acceptor = Acceptor(core[0], settings.shared, retry_ms=1_000, remember_ms=60_000)
    async with moderating(core, settings, policy):
        entry_id = await submit(core[0], "T1", "lottery")
        await drained(core[0])
        await reviews.decide("T1", MessageId.parse(entry_id), "approve", "ann", "x")
        keepers = [people.Held(core[0], reviews, acceptor) for _ in range(2)]
        assert await keepers[0].send_left_behind() == 1
        await keepers[1].send_left_behind()  # at the same time: the second finds it sent, or sends nothing
        await drained(core[0])
        assert [body for _, body in await shown(core[0], "T1")] == ["lottery"]
        assert [await keeper.send_left_behind() for keeper in keepers] == [0, 0]


async def test_what_nobody_decided_on_is_rejected_in_the_end(
    core: Core, settings: WorkerSettings, policy: Path
) -> None:
    reviews = Reviews(core[1].database)
    keeper = people.Held(core[0], reviews, Acceptor(core[0], settings.shared, retry_ms=1_000, remember_ms=60_000))
    async with moderating(core, settings, policy):
        entry_id = MessageId.parse(await submit(core[0], "T1", "lottery"))
        await drained(core[0])
    assert await keeper.reject_older(entry_id.ms) == 0
    assert await keeper.reject_older(entry_id.ms + 1) == 1
    found = await core[1].find("T1", entry_id)
    assert found is not None
    assert found.status == "rejected"


async def test_a_deleted_message_is_gone_from_redis_and_postgres_and_readers_are_told(
    core: Core, api: Api, settings: WorkerSettings, policy: Path
) -> None:
    async with moderating(core, settings, policy):
        ids = [await submit(core[0], "T1", text) for text in ("before", "my secret words", "after")]
        await drained(core[0])
        answer = await api.client.request("DELETE", f"/admin/messages/T1/{ids[1]}", json={"why": "asked for"})
        assert answer.status_code == 202, answer.text
        await drained(core[0])
        assert "my secret words" not in await everywhere(core)
        events = (await log.read_after(core[0], "T1", log.ZERO)).events
        assert [(e.kind, e.message) for e in events] == [
            ("message", "before"),
            ("message", "after"),
            ("message_deleted", ""),
        ]
        assert (events[2].target_id, events[2].message_id) == (ids[1], answer.json()["event_id"])
        assert [body for _, body in await archived(core[1], "T1")] == ["before", "after"]
        again = await api.client.request("DELETE", f"/admin/messages/T1/{ids[1]}", json={"why": "asked for"})
        assert (again.status_code, again.json()["code"]) == (409, "already_decided")
        # The archive alone tells a reader the same, when the log is gone.
        logged = await core[1].logged_between("T1", log.ZERO, MessageId(2**63 - 1, 0), limit=10)
        assert [e.kind for e in logged] == ["message", "message", "message_deleted"]


async def test_a_replaced_text_is_what_history_shows(
    core: Core, api: Api, settings: WorkerSettings, policy: Path
) -> None:
    async with moderating(core, settings, policy):
        entry_id = await submit(core[0], "T1", "call me at home")
        await drained(core[0])
        body = {"why": "private", "replacement": "[removed]"}
        answer = await api.client.request("DELETE", f"/admin/messages/T1/{entry_id}", json=body)
        assert answer.status_code == 202, answer.text
        await drained(core[0])
        assert await archived(core[1], "T1") == [(entry_id, "[removed]")]
        assert "call me at home" not in await everywhere(core)


async def test_a_muted_sender_is_not_heard_until_unmuted(
    core: Core, api: Api, settings: WorkerSettings, policy: Path
) -> None:
    async with moderating(core, settings, policy) as moderation:
        answer = await api.post("senders/1/mute", seconds=3600, why="shouting")
        assert answer.json()["muted_until_ms"] > 0
        await moderation.refresh_mutes()
        await submit(core[0], "T1", "hello")
        await drained(core[0])
        assert await shown(core[0], "T1") == []
        assert (await api.post("senders/1/unmute", why="calm")).status_code == 200
        assert (await api.post("senders/1/unmute", why="calm")).status_code == 404
        await asyncio.sleep(0.002)  # the mute ends with a millisecond; the message must come after it
        await moderation.refresh_mutes()
        await submit(core[0], "T1", "sorry")
        await drained(core[0])
        assert [body for _, body in await shown(core[0], "T1")] == ["sorry"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "told"),
    [
        ("POST", "held/T1/1-0/approve", {"why": "x"}, 404, "has no message 1-0"),
        ("POST", "held/T1/nonsense/approve", {"why": "x"}, 422, "message id is 'nonsense'"),
        ("POST", "held/a:b/1-0/reject", {"why": "x"}, 422, "ticket is 'a:b'"),
        ("POST", "held/T1/1-0/approve", {}, 422, "why is missing"),
        ("POST", "held/T1/1-0/approve", {"why": "x", "rate": 1}, 422, "'rate' is not known"),
        ("POST", "senders/a*b/mute", {"seconds": 5, "why": "x"}, 422, "sender is 'a*b'"),
        ("POST", "senders/1/mute", {"seconds": 0, "why": "x"}, 422, "seconds is 0"),
        ("DELETE", "messages/T1/1-0", {"why": "x"}, 404, "has no message 1-0"),
        ("DELETE", "messages/T1/1-0", {"why": "x", "replacement": ""}, 422, "replacement is ''"),
        ("GET", "held?cursor=nonsense", None, 422, "cursor is 'nonsense'"),
        ("GET", "held?limit=0", None, 422, "limit is"),
    ],
)
async def test_bad_requests_are_told_what_is_allowed(
    api: Api, method: str, path: str, body: dict[str, object] | None, status: int, told: str
) -> None:
    answer = await api.client.request(method, f"/admin/{path}", json=body)
    assert answer.status_code == status, answer.text
    assert told in answer.json()["error"]
