"""Dead letters are listed, shown, sent again once, and purged with a copy left behind."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.integration.admin.harness import Api, Core, bury_some, letter_of, running_api
from tests.pipeline import archived, drained, letters, raw, shown, working
from tests.until import until
from ticketwire.bus.bus import Bus
from ticketwire.bus.dead_letters import DeadLetters
from workers.settings import WorkerSettings


def name(bus: Bus, ticket: str, letter_id: str) -> str:
    return f"{bus.keys.partition_of(ticket):02d}:{letter_id}"


async def on_stream(bus: Bus, ticket: str) -> list[tuple[str, list[str]]]:
    stream = bus.keys.ingest(bus.keys.partition_of(ticket))
    return [(entry_id, fields) for entry_id, fields in await bus.command(stream, "XRANGE", stream, "-", "+")]


async def buried(core: Core, settings: WorkerSettings, tickets: int = 4, each: int = 3) -> dict[str, list[str]]:
    ids = await bury_some(core[0], tickets, each)
    async with working(core, settings):
        await drained(core[0])
    return ids


async def test_a_page_goes_through_all_partitions_and_the_next_begins_after_it(
    core: Core, settings: WorkerSettings, api: Api
) -> None:
    """Every letter once, whatever the size of a page."""
    ids = await buried(core, settings)
    expected = sorted(name(core[0], ticket, one) for ticket, some in ids.items() for one in some)
    for limit in (1, 5, 12, 100):
        assert sorted(letter["id"] for letter in await api.letters(limit=limit)) == expected
    page = await api.get("dead-letters", limit=5)
    assert len(page["letters"]) == 5


async def test_filters_choose_by_reason_ticket_and_time_of_burial(
    core: Core, settings: WorkerSettings, api: Api
) -> None:
    ids = await buried(core, settings)
    poison = await letter_of(core[0], "T1", "hello")
    assert [x["entry_id"] for x in await api.letters(reason="poison")] == [poison]
    assert [x["entry_id"] for x in await api.letters(ticket="T1", reason="unknown_version")] == ids["T1"]
    assert {x["ticket_id"] for x in await api.letters(ticket="T1")} == {"T1"}
    at = next(x["last_at_ms"] for x in await api.letters(reason="poison"))
    assert poison in [x["entry_id"] for x in await api.letters(since=at)]
    assert poison not in [x["entry_id"] for x in await api.letters(until=at)]
    assert len(await api.letters(since="2020-01-01T00:00:00Z")) == 13
    assert await api.letters(until="2020-01-01T00:00:00+02:00") == []


async def test_a_page_does_not_look_at_letters_without_bound(core: Core, api: Api) -> None:
    """A filter that matches nothing among thousands answers with a cursor, not after reading them all."""
    dead = core[0].keys.dead(0)
    await core[0].call(dead, *(("XADD", dead, f"{n}-0", "x", "y") for n in range(1, 2_502)))
    page = await api.get("dead-letters", reason="poison")
    assert (page["letters"], page["next_cursor"]) == ([], "00:2000-0")
    page = await api.get("dead-letters", reason="poison", cursor=page["next_cursor"])
    assert (page["letters"], page["next_cursor"]) == ([], None)


async def test_a_letter_is_shown_whole_but_for_texts_that_moderation_has_not_seen(
    core: Core, settings: WorkerSettings, api: Api
) -> None:
    entry_id = await raw(core[0], "T1", "ticket_id", "T1", "sender_id", "1", "message", b"caf\xe9")
    async with working(core, settings):
        await drained(core[0])
    letter = await api.get(f"dead-letters/{name(core[0], 'T1', entry_id)}")
    assert (letter["state"], letter["reason"], letter["error_class"]) == ("dead", "undecodable", "Rejected")
    assert letter["fields"] == [["ticket_id", "T1"], ["sender_id", "1"], ["message", {"hidden": 4}]], (
        "what moderation has not seen, nobody reads"
    )


async def test_a_replayed_message_is_shown_once_with_its_original_id(
    core: Core, settings: WorkerSettings, api: Api
) -> None:
    entry_id = await letter_of(core[0], "T1", "hello", client_message_id="k1", trace_id="ab" * 16)
    job = (await api.post("dead-letters/replay", ids=[name(core[0], "T1", entry_id)], why="fixed")).json()
    (told,) = job["letters"]
    assert (job["state"], job["outcomes"], told["outcome"]) == ("done", {"sent": 1}, "sent")
    async with working(core, settings):
        await drained(core[0])
    assert await shown(core[0], "T1") == await archived(core[1], "T1") == [(told["new_id"], "hello")]
    (event,) = await core[1].history("T1", limit=10)
    assert (event.original_id, event.client_message_id, event.trace_id) == (entry_id, "k1", "ab" * 16)
    assert await letters(core[0]) == []


async def test_a_second_replay_sends_nothing_and_says_what_the_first_sent(core: Core, api: Api) -> None:
    entry_id = await letter_of(core[0], "T1", "hello")
    ids = [name(core[0], "T1", entry_id)]
    first = (await api.post("dead-letters/replay", ids=ids, why="fixed")).json()
    second = (await api.post("dead-letters/replay", ids=ids, why="fixed")).json()
    assert second["outcomes"] == {"already": 1}
    assert second["letters"][0]["new_id"] == first["letters"][0]["new_id"]
    assert len(await on_stream(core[0], "T1")) == 1


async def test_two_operators_at_once_send_each_letter_once_and_in_order(
    core: Core, settings: WorkerSettings, api: Api
) -> None:
    """Each over an API process of his own."""
    sent = [await letter_of(core[0], f"T{n % 3}", f"m{n}") for n in range(150)]
    async with running_api(settings) as other:
        answers = await asyncio.gather(
            *(one.post("dead-letters/replay", filter={}, why="both") for one in (api, other, api, other))
        )
        jobs = [await api.done(answer) for answer in answers]
    assert sum(job["outcomes"].get("sent", 0) for job in jobs) == len(sent)
    for ticket in ("T0", "T1", "T2"):
        mine = [dict(zip(f[::2], f[1::2], strict=True)) for _, f in await on_stream(core[0], ticket)]
        expected = [(entry_id, f"m{n}") for n, entry_id in enumerate(sent) if f"T{n % 3}" == ticket]
        assert [(x["original_id"], x["message"]) for x in mine if x["ticket_id"] == ticket] == expected


async def test_what_is_no_message_is_sent_byte_for_byte(core: Core, settings: WorkerSettings, api: Api) -> None:
    """Nothing is added to an entry whose version we cannot read: a newer worker may."""
    fields: list[str | bytes] = ["v", "9", "ticket_id", "T1", "message", b"\xff\x00\xfe", b"\x80", ""]
    entry_id = await raw(core[0], "T1", *fields)
    async with working(core, settings):
        await drained(core[0])
    assert (await api.post("dead-letters/replay", filter={"ticket": "T1"}, why="upgraded")).json()["done"] == 1
    ((new_id, found),) = await on_stream(core[0], "T1")
    as_bytes = [one.encode() if isinstance(one, str) else one for one in fields]
    assert [one.encode("utf-8", "surrogateescape") for one in found] == as_bytes
    trace = await api.get(f"messages/T1/{entry_id}")
    assert (trace["status"], trace["replayed_as"], trace["next"]["status"]) == ("replayed", new_id, "pending")


async def test_the_first_id_survives_two_replays_and_the_trace_leads_to_the_end(
    core: Core, settings: WorkerSettings, api: Api
) -> None:
    first = await letter_of(core[0], "T1", "hello")
    second = (await api.post("dead-letters/replay", filter={}, why="1")).json()["letters"][0]["new_id"]
    ((_, fields),) = await on_stream(core[0], "T1")
    stream = core[0].keys.ingest(core[0].keys.partition_of("T1"))
    await core[0].command(stream, "XGROUP", "CREATE", stream, "workers", "0")
    await core[0].command(stream, "XREADGROUP", "GROUP", "workers", "owner", "STREAMS", stream, ">")
    await core[0].command(stream, "XCLAIM", stream, "workers", "owner", 0, second, "RETRYCOUNT", 9, "JUSTID")
    async with working(core, settings):
        await drained(core[0])  # buried again, as poison
        third = (await api.post("dead-letters/replay", filter={}, why="2")).json()["letters"][0]["new_id"]
        await drained(core[0])
    (event,) = await core[1].history("T1", limit=10)
    assert (event.message_id, event.original_id) == (third, first)
    trace = await api.get(f"messages/T1/{first}")
    assert (trace["status"], trace["next"]["status"]) == ("replayed", "replayed")
    last = trace["next"]["next"]
    assert (last["status"], last["message_id"], last["original_id"]) == ("confirmed", third, first)
    assert [step["step"] for step in last["steps"]] == ["accepted", "verdict", "archived", "confirmed"]
    assert fields.count("original_id") == 1


async def test_a_message_that_history_has_is_not_sent_again(core: Core, settings: WorkerSettings, api: Api) -> None:
    """Its log refused it (a key of another type), so it was buried though archived: sent again it would be twice."""
    key = core[0].keys.log("T1")
    await core[0].command(key, "SET", key, "in the way")
    entry_id = await raw(core[0], "T1", "ticket_id", "T1", "sender_id", "1", "message", "m")
    async with working(core, settings):
        await drained(core[0])
    job = (await api.post("dead-letters/replay", filter={}, why="log freed")).json()
    assert job["outcomes"] == {"archived": 1}
    assert [x["entry_id"] for x in await api.letters()] == [entry_id]
    assert await on_stream(core[0], "T1") == []


async def test_a_dry_run_tells_what_would_happen_and_changes_nothing(core: Core, api: Api) -> None:
    entry_id = await letter_of(core[0], "T1", "hello")
    await core[0].command(core[0].keys.dead(0), "XADD", core[0].keys.dead(0), "*", "no", "letter")
    job = (await api.post("dead-letters/replay", filter={}, dry_run=True)).json()
    assert (job["dry_run"], job["total"], job["outcomes"]) == (True, 2, {"unreadable": 1, "would_send": 1})
    assert (await on_stream(core[0], "T1"), len(await api.letters())) == ([], 2)
    assert await core[1].database.fetch("SELECT * FROM dead_letters") == []
    assert (await api.get("audit"))["rows"] == []
    assert entry_id in {x["entry_id"] for x in await api.letters()}


async def test_a_sender_that_dies_before_recording_leaves_the_new_id_to_be_found(
    core: Core, settings: WorkerSettings
) -> None:
    """The script has run, the process is gone: any other process records it, and no replay sends it again."""
    entry_id = await letter_of(core[0], "T1", "hello")
    partition = core[0].keys.partition_of("T1")
    dead = DeadLetters(core[0])
    letter = (await dead.get(partition, [entry_id]))[entry_id]
    from ingest.admin.shapes import to_copy
    from ticketwire.archive.dead_letters import LetterArchive

    await LetterArchive(core[1].database).keep([to_copy(letter)])
    (sent,) = await dead.send(partition, [letter], json.dumps({"job": "1", "actor": "bob", "why": "died"}))
    assert sent is not None
    async with running_api(settings) as api:

        async def recorded() -> bool:
            return not await dead.unrecorded(partition)

        await until(recorded)
        found = await api.get(f"dead-letters/{name(core[0], 'T1', entry_id)}")
        assert (found["state"], found["replayed_as"], found["actor"]) == ("replayed", sent.new_id, "bob")
        again = await api.post("dead-letters/replay", ids=[name(core[0], "T1", entry_id)], why="again")
        assert again.json()["outcomes"] == {"already": 1}
    assert len(await on_stream(core[0], "T1")) == 1


async def test_before_it_is_recorded_the_trace_knows_a_replay_all_the_same(core: Core, api: Api) -> None:
    """Redis tells what PostgreSQL has not heard of yet."""
    entry_id = await letter_of(core[0], "T1", "hello")
    job = (await api.post("dead-letters/replay", filter={}, why="x")).json()
    new_id, partition = job["letters"][0]["new_id"], core[0].keys.partition_of("T1")
    await core[1].database.execute("UPDATE dead_letters SET replayed_at = NULL, replayed_as = NULL")
    key = core[0].keys.replayed(partition)
    note = json.dumps({"job": "1", "actor": "bob", "why": "x"})
    await core[0].command(key, "HSET", key, entry_id, f"{new_id} 1 {note}")
    trace = await api.get(f"messages/T1/{entry_id}")
    assert (trace["status"], trace["replayed_as"]) == ("replayed", new_id)


async def test_a_replay_that_was_interrupted_goes_on_when_it_is_started_again(
    core: Core, settings: WorkerSettings, api: Api
) -> None:
    """At ten a second it takes a while; its process is stopped, another finishes."""
    sent = [await letter_of(core[0], "T1", f"m{n}") for n in range(60)]
    async with running_api(settings) as first:
        answer = await first.post("dead-letters/replay", filter={}, rate=10, why="slowly")
        assert answer.status_code == 202
        assert answer.headers["location"] == f"/admin/jobs/{answer.json()['job_id']}"
        running = await api.get(f"jobs/{answer.json()['job_id']}")
        assert (running["state"], running["total"]) == ("running", 60)
    stopped = await api.get(f"jobs/{answer.json()['job_id']}")
    assert stopped["state"] == "interrupted"
    assert 0 < stopped["done"] < 60
    rest = await api.done(await api.post("dead-letters/replay", filter={}, why="the rest"))
    assert rest["outcomes"] == {"sent": 60 - stopped["done"]}
    found = [dict(zip(f[::2], f[1::2], strict=True))["original_id"] for _, f in await on_stream(core[0], "T1")]
    assert found == sent


async def test_a_job_whose_process_died_is_told_to_be_lost(core: Core, api: Api) -> None:
    """Nobody keeps it alive any more, so it can be started again."""
    key = core[0].keys.job("0123456789abcdef")
    state = json.dumps({"job_id": "0123456789abcdef", "state": "running", "done": 3})
    await core[0].command(key, "SET", key, state)
    assert (await api.get("jobs/0123456789abcdef"))["state"] == "lost"


async def test_a_purge_leaves_a_copy_and_the_fate_behind(core: Core, settings: WorkerSettings, api: Api) -> None:
    ids = await buried(core, settings, tickets=2, each=2)
    job = (await api.post("dead-letters/purge", filter={"ticket": "T1"}, expected=2, why="spam")).json()
    assert (job["state"], job["outcomes"]) == ("done", {"purged": 2})
    assert [x["ticket_id"] for x in await api.letters()] == ["T0", "T0"]
    copy = await api.get(f"dead-letters/{name(core[0], 'T1', ids['T1'][0])}")
    assert (copy["state"], copy["actor"], copy["why"]) == ("purged", "ann", "spam")
    assert copy["fields"][3] == ["message", {"hidden": 4}]
    trace = await api.get(f"messages/T1/{ids['T1'][0]}")
    assert trace["status"] == "purged"
    assert [step["step"] for step in trace["steps"]] == ["accepted", "buried", "purged"]


async def test_a_purge_with_another_count_than_expected_purges_nothing(core: Core, api: Api) -> None:
    for n in range(3):
        await letter_of(core[0], f"T{n}", "hello")
    answer = await api.post("dead-letters/purge", filter={"reason": "poison"}, expected=2, why="spam")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert "expected is 2, but the filter matches 3" in answer.json()["error"]
    assert len(await api.letters()) == 3
    assert (await api.get("audit"))["rows"] == []


async def test_old_letters_leave_redis_by_themselves_with_a_copy(core: Core, settings: WorkerSettings) -> None:
    """Thirty days by default; here everything older than 0.0864 s. Several processes at once do no harm."""
    old = await letter_of(core[0], "T1", "old")
    stray = core[0].keys.dead(1)
    await core[0].command(stray, "XADD", stray, "18446744073709551615-5", "no", "letter")
    await asyncio.sleep(0.1)
    async with running_api(settings, dead_letter_days=1e-6) as api, running_api(settings, dead_letter_days=1e-6):

        async def gone() -> bool:
            return [x["id"] for x in await api.letters()] == ["01:18446744073709551615-5"]

        await until(gone)
        copy = await api.get(f"dead-letters/{name(core[0], 'T1', old)}")
        assert (copy["state"], copy["actor"]) == ("purged", "retention")
        (row,) = (await api.get("audit", actor="retention"))["rows"]
        assert (row["action"], row["detail"]["letters"]) == ("purge", 1)


async def test_a_letter_at_the_very_end_of_ids_can_be_purged_and_kept(core: Core, api: Api) -> None:
    """PostgreSQL's bigint is too small for it."""
    dead = core[0].keys.dead(2)
    await core[0].command(dead, "XADD", dead, "18446744073709551615-18446744073709551615", "no", "letter")
    job = (await api.post("dead-letters/purge", filter={"reason": "unreadable"}, expected=1, why="junk")).json()
    assert job["outcomes"] == {"purged": 1}
    kept = await api.get("dead-letters/02:18446744073709551615-18446744073709551615")
    assert (kept["state"], kept["fields"]) == ("purged", [["no", {"hidden": 6}]])


async def test_every_change_is_in_the_record_with_who_when_and_why(core: Core, api: Api) -> None:
    await letter_of(core[0], "T1", "a")
    await api.post("dead-letters/replay", filter={"ticket": "T1"}, why="bug 17 is fixed")
    rows: list[dict[str, Any]] = (await api.get("audit"))["rows"]
    assert [(r["actor"], r["action"], r["why"], r["detail"]["phase"]) for r in rows] == [
        ("ann", "replay", "bug 17 is fixed", "end"),
        ("ann", "replay", "bug 17 is fixed", "begin"),
    ]
    assert rows[0]["detail"]["outcomes"] == {"sent": 1}
    assert rows[1]["detail"]["asked"] == {"filter": {"ticket": "T1"}, "rate": None}
    page = await api.get("audit", limit=1)
    assert [r["number"] for r in (await api.get("audit", before=page["next_before"]))["rows"]] == [rows[1]["number"]]


@pytest.mark.parametrize("fields", [7_002, 40_000])
async def test_an_entry_of_too_many_fields_is_told_and_stays(core: Core, api: Api, fields: int) -> None:
    """Lua could not send it; the others go on."""
    entry_id = await letter_of(core[0], "T1", "a")
    dead = core[0].keys.dead(core[0].keys.partition_of("T1"))
    letter = (await core[0].command(dead, "XRANGE", dead, entry_id, entry_id))[0][1]
    letter[letter.index("fields") + 1] = json.dumps(["x"] * fields)
    await core[0].command(dead, "XADD", dead, "*", *letter)
    job = (await api.post("dead-letters/replay", filter={}, why="x")).json()
    assert job["outcomes"] == {"sent": 1, "unreadable": 1}
