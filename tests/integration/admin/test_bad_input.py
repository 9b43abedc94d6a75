"""What the API refuses names the field, what was found and what is allowed; nothing is half done."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.integration.admin.harness import KEY, Api, Core, letter_of, running_api
from tests.pipeline import make_settings
from ticketwire.embedded.postgres_server import EmbeddedPostgres
from ticketwire.embedded.redis_server import EmbeddedRedis
from workers.settings import WorkerSettings

FILTER: dict[str, Any] = {"filter": {}}
WHY = {"why": "x"}


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        ("replay", {}, 422, "neither ids nor filter is given"),
        ("replay", {**FILTER, "ids": ["00:1-0"], **WHY}, 422, "both ids and filter are given"),
        ("replay", {**FILTER}, 422, "why is missing: 1 to 500 characters"),
        ("replay", {**FILTER, "why": "  "}, 422, "why is '  ', allowed: 1 to 500"),
        ("replay", {**FILTER, "why": "a\nb"}, 422, "why is 'a\\nb', allowed: 1 to 500"),
        ("replay", {**FILTER, **WHY, "rate": 0}, 422, "rate is 0, allowed: letters per second, above 0"),
        ("replay", {**FILTER, **WHY, "rate": -1}, 422, "rate is -1"),
        ("replay", {**FILTER, **WHY, "rate": "fast"}, 422, "rate is 'fast'"),
        ("replay", {**FILTER, **WHY, "rate": 1e9}, 422, "rate is 1000000000.0"),
        ("replay", {**FILTER, **WHY, "dry_run": "yes"}, 422, "dry_run is 'yes', allowed: true or false"),
        ("replay", {**FILTER, **WHY, "speed": 1}, 422, "field 'speed' is not known; allowed are ids, filter, dry_run"),
        ("replay", {"filter": {"age": 1}, **WHY}, 422, "field 'filter.age' is not known; allowed are reason, ticket"),
        ("replay", {"filter": {"reason": "bad"}, **WHY}, 422, "filter.reason is 'bad', allowed: undecodable, unkn"),
        ("replay", {"filter": {"ticket": "a:b"}, **WHY}, 422, "filter.ticket is 'a:b', allowed: 1 to 128"),
        ("replay", {"filter": {"since": "today"}, **WHY}, 422, "filter.since is 'today', allowed: Unix milliseconds"),
        ("replay", {"filter": {"until": "2026-01-01T00:00:00"}, **WHY}, 422, "filter.until is '2026-01-01T00:00:00'"),
        ("replay", {"filter": {"since": -1}, **WHY}, 422, "filter.since is -1"),
        ("replay", {"filter": {"since": True}, **WHY}, 422, "filter.since is True"),
        ("replay", {"filter": [], **WHY}, 422, "filter is a list of 0, allowed: an object"),
        ("replay", {"ids": [], **WHY}, 422, "ids is a list of 0, allowed: a list of 1 to 1,000"),
        ("replay", {"ids": ["00:1-0"] * 1_001, **WHY}, 422, "ids is a list of 1,001"),
        ("replay", {"ids": ["1-0"], **WHY}, 422, "ids: '1-0' is no dead letter's id"),
        ("replay", {"ids": ["99:1-0"], **WHY}, 422, "ids: '99:1-0' names partition 99, there are 0 to 3"),
        ("replay", {"ids": ["00:x"], **WHY}, 422, "ids: message id is 'x'"),
        ("replay", {"ids": ["00:1-0", "GOOD"], **WHY}, 404, "ids: there is no dead letter 00:1-0"),
        ("purge", {"expected": 1, **WHY}, 422, "filter is missing: an object"),
        ("purge", {**FILTER, **WHY}, 422, "expected is missing: the number of letters"),
        ("purge", {**FILTER, "expected": 1}, 422, "why is missing"),
        ("purge", {**FILTER, "expected": -1, **WHY}, 422, "expected is -1"),
        ("purge", {**FILTER, "expected": "1", **WHY}, 422, "expected is '1'"),
        ("purge", {**FILTER, "expected": 7, **WHY}, 409, "expected is 7, but the filter matches 1"),
        ("purge", {"ids": ["00:1-0"], "expected": 1, **WHY, **FILTER}, 422, "field 'ids' is not known"),
    ],
)
async def test_a_change_that_cannot_be_is_refused_and_nothing_is_done(
    core: Core, api: Api, path: str, body: dict[str, Any], status: int, told: str
) -> None:
    entry_id = await letter_of(core[0], "T1", "hello")
    if "GOOD" in body.get("ids", []):
        body = {**body, "ids": [body["ids"][0], f"{core[0].keys.partition_of('T1'):02d}:{entry_id}"]}
    answer = await api.post(f"dead-letters/{path}", **body)
    assert (answer.status_code, answer.json()["error"][: len(told)]) == (status, told)
    assert [x["entry_id"] for x in await api.letters()] == [entry_id]
    assert (await api.get("audit"))["rows"] == []


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("dead-letters?limit=0", 422, "limit is '0', allowed: a whole number from 1 to 1,000"),
        ("dead-letters?limit=x", 422, "limit is 'x'"),
        ("dead-letters?reason=bad", 422, "reason is 'bad', allowed: undecodable"),
        ("dead-letters?since=now", 422, "since is 'now', allowed: Unix milliseconds or ISO 8601"),
        ("dead-letters?cursor=abc", 422, "cursor: 'abc' is no dead letter's id"),
        ("dead-letters?age=1", 422, "field 'age' is not known; allowed are reason, ticket, since, until, limit, curs"),
        ("dead-letters?limit=1&limit=2", 422, "'limit' is given twice"),
        ("dead-letters/00:1-0", 404, "there is no dead letter 00:1-0"),
        ("dead-letters/abc", 422, "id: 'abc' is no dead letter's id"),
        ("jobs/0123456789abcdef", 404, "there is no job '0123456789abcdef'"),
        ("jobs/..%2f..", 404, "there is no"),
        ("messages/T1/1-0", 404, "ticket T1 has no message 1-0"),
        ("messages/T1/x", 422, "message id is 'x'"),
        ("messages/a:b/1-0", 422, "ticket is 'a:b', allowed: 1 to 128"),
        ("audit?before=0", 422, "before is '0', allowed: the number of a row"),
        ("audit?action=Replay!", 422, "action is 'Replay!', allowed"),
        ("nothing", 404, "there is no GET /admin/nothing"),
    ],
)
async def test_a_question_that_cannot_be_answered_says_why(api: Api, path: str, status: int, told: str) -> None:
    answer = await api.client.get(f"/admin/{path}")
    assert (answer.status_code, answer.json()["error"][: len(told)]) == (status, told)


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"filter=", "application/x-www-form-urlencoded", 415),
        (b"{", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"[]", "application/json", 422),
        (b"{" + b" " * 300_000, "application/json", 413),
    ],
)
async def test_a_body_that_is_no_json_object_is_refused(api: Api, content: bytes, kind: str, status: int) -> None:
    answer = await api.client.post("/admin/dead-letters/replay", content=content, headers={"Content-Type": kind})
    assert (answer.status_code, "error" in answer.json()) == (status, True)


@pytest.mark.parametrize(
    ("headers", "status", "told"),
    [
        ({}, 401, "Authorization must be"),
        ({"Authorization": "Bearer wrong-wrong-wrong-wrong"}, 401, "Authorization must be"),
        ({"Authorization": f"Basic {KEY}"}, 401, "Authorization must be"),
        ({"Authorization": "Bearer"}, 401, "Authorization must be"),
        ({"Authorization": f"Bearer {KEY}", "X-Actor": "a b"}, 422, "X-Actor is 'a b', allowed: 1 to 64"),
        ({"Authorization": f"Bearer {KEY}", "X-Actor": "a" * 65}, 422, "X-Actor is"),
        ({"Authorization": f"bearer {KEY}"}, 200, ""),
    ],
)
async def test_only_the_key_opens_and_a_caller_may_say_who_he_is(
    api: Api, headers: dict[str, str], status: int, told: str
) -> None:
    async with httpx.AsyncClient(base_url=api.url) as client:
        answer = await client.get("/admin/scale", headers=headers)
    assert (answer.status_code, answer.json().get("error", "")[: len(told)]) == (status, told)


async def test_without_a_key_set_everything_is_closed(settings: WorkerSettings) -> None:
    async with running_api(settings, admin_key=None) as api:
        for path in ("scale", "dead-letters", "nothing"):
            answer = await api.client.get(f"/admin/{path}")
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


async def test_a_server_that_is_away_is_503_and_nothing_happens_until_it_is_back(
    own_redis: EmbeddedRedis, own_postgres: EmbeddedPostgres
) -> None:
    import asyncio

    from tests.pipeline import open_all
    from ticketwire.archive.migrate import upgrade

    await asyncio.to_thread(upgrade, own_postgres.url)
    settings = make_settings(own_redis.url, own_postgres.url)
    async with open_all(settings) as core, running_api(settings) as api:
        entry_id = await letter_of(core[0], "T1", "hello")
        own_postgres.stop()
        answers = [
            await api.post("dead-letters/purge", filter={}, expected=1, why="x"),
            await api.post("dead-letters/replay", filter={}, why="x"),
            await api.client.get("/admin/audit"),
            await api.client.get("/admin/messages/T1/1-0"),
        ]
        assert [(a.status_code, a.json()["code"]) for a in answers] == [(503, "unavailable")] * 4
        assert answers[0].headers["retry-after"] == "1"
        assert [x["entry_id"] for x in await api.letters()] == [entry_id]
        own_postgres.start()
        own_redis.process.kill()
        own_redis.process.wait()
        answers = [
            await api.client.get("/admin/dead-letters"),
            await api.client.get("/admin/partitions"),
            await api.client.get("/admin/scale"),
            await api.post("dead-letters/replay", filter={}, why="x"),
        ]
        assert [(a.status_code, a.json()["code"]) for a in answers] == [(503, "unavailable")] * 4
        own_redis.launch()
        await asyncio.to_thread(own_redis.wait_ready)
        job = await api.done(await api.post("dead-letters/replay", filter={}, why="x"))
        assert job["outcomes"] == {"sent": 1}
