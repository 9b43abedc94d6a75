"""Partitions, workers, the autoscaler's number and one message's way, as they really are."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from tests.integration.admin.harness import Api, Core, letter_of, running_api
from tests.pipeline import backlog, drained, flood, raw, submit, working
from tests.until import until
from ticketwire.archive.audit import Audit
from workers.settings import WorkerSettings


async def test_a_waiting_partition_shows_its_backlog_and_age(core: Core, api: Api) -> None:
    for n in range(3):
        await submit(core[0], "T1", f"m{n}")
    views = (await api.get("partitions"))["partitions"]
    view = views[core[0].keys.partition_of("T1")]
    assert (view["backlog"], view["pending"], view["owner"], view["lease_ends_at_ms"]) == (3, 0, None, None)
    assert 0 <= view["oldest_age_ms"] < 60_000
    others = [v for v in views if v["partition"] != view["partition"]]
    assert [(v["backlog"], v["oldest_age_ms"], v["done"]) for v in others] == [(0, None, "0-0")] * 3
    assert await api.get("scale") == {"backlog": 3}


async def test_owned_partitions_show_owner_lease_and_rate(core: Core, settings: WorkerSettings, api: Api) -> None:
    """The rate is what was settled since an earlier look, so it needs two."""
    async with working(core, settings) as fleet:
        await until(lambda: fleet.owned == 4)
        before = (await api.get("partitions"))["partitions"]
        assert all(v["settled"] == 0 for v in before)
        await flood(core[0], tickets=8, each=10)
        await drained(core[0])
        await letter_of(core[0], "T1", "x")

        async def rates() -> list[float | None]:
            return [v["settled_per_second"] for v in (await api.get("partitions"))["partitions"]]

        await until(lambda: _all_known(rates))
        views = (await api.get("partitions"))["partitions"]
        workers = (await api.get("workers"))["workers"]
    assert {v["owner"] for v in views} == {fleet.worker}
    assert all(0 < v["lease_ends_at_ms"] - v["at_ms"] <= settings.shared.lease_ttl_ms for v in views)
    assert sum(v["settled"] for v in views) == 80
    assert [(w["worker"], w["alive"], w["partitions"]) for w in workers] == [(fleet.worker, True, [0, 1, 2, 3])]
    assert sum(v["dead_letters"] for v in views) == 1


async def _all_known(rates: object) -> bool:
    return all(rate is not None for rate in await rates())  # type: ignore[operator]


async def test_what_is_in_hand_is_pending_and_taken_over(core: Core, api: Api) -> None:
    entry_id = await submit(core[0], "T1", "m")
    stream = core[0].keys.ingest(core[0].keys.partition_of("T1"))
    await core[0].command(stream, "XGROUP", "CREATE", stream, "workers", "0")
    await core[0].command(stream, "XREADGROUP", "GROUP", "workers", "owner", "STREAMS", stream, ">")
    view = (await api.get("partitions"))["partitions"][core[0].keys.partition_of("T1")]
    assert (view["backlog"], view["pending"]) == (1, 1)
    trace = await api.get(f"messages/T1/{entry_id}")
    assert trace["status"] == "pending"
    accepted, taken = trace["steps"]
    assert (accepted["step"], taken["step"], taken["deliveries"]) == ("accepted", "taken_over", 1)
    assert taken["at_ms"] >= accepted["at_ms"]


async def test_a_messages_way_is_told_with_times_and_null_where_nobody_noted_one(
    core: Core, settings: WorkerSettings, api: Api
) -> None:
    entry_id = await submit(core[0], "T1", "m", client_message_id="k1", trace_id="cd" * 16)
    async with working(core, settings):
        await drained(core[0])
    await Audit(core[1].database).record("rule@1", "allow", f"message T1/{entry_id}", "looks fine", {})
    trace = await api.get(f"messages/T1/{entry_id}")
    assert (trace["status"], trace["client_message_id"], trace["trace_id"]) == ("confirmed", "k1", "cd" * 16)
    steps = {step["step"]: step for step in trace["steps"]}
    assert list(steps) == ["accepted", "verdict", "archived", "confirmed"]
    assert steps["accepted"]["at_ms"] <= steps["archived"]["at_ms"]
    assert (steps["confirmed"]["at_ms"], steps["confirmed"]["in_log"]) == (None, True)
    assert [d["action"] for d in trace["decisions"]] == ["allow"]
    await core[0].command(core[0].keys.log("T1"), "DEL", core[0].keys.log("T1"))
    trace = await api.get(f"messages/T1/{entry_id}")
    assert trace["steps"][-1] == {"step": "confirmed", "at_ms": None, "in_log": False}


async def test_a_buried_messages_way_ends_in_its_letter_and_belongs_to_its_ticket_alone(
    core: Core, settings: WorkerSettings, api: Api
) -> None:
    entry_id = await raw(core[0], "T1", "v", "9", "ticket_id", "T1", "sender_id", "1", "message", "m")
    async with working(core, settings):
        await drained(core[0])
    trace = await api.get(f"messages/T1/{entry_id}")
    assert (trace["status"], trace["steps"][-1]["letter"]["reason"]) == ("dead", "unknown_version")
    twin = next(f"U{n}" for n in range(99) if core[0].keys.partition_of(f"U{n}") == core[0].keys.partition_of("T1"))
    assert (await api.client.get(f"/admin/messages/{twin}/{entry_id}")).status_code == 404


async def test_dead_letters_are_counted_by_partition_in_the_metrics(core: Core, settings: WorkerSettings) -> None:
    await letter_of(core[0], "T1", "x")
    labels = {"partition": f"{core[0].keys.partition_of('T1'):02d}"}
    async with running_api(settings):
        await until(lambda: REGISTRY.get_sample_value("ingest_dead_letters", labels) == 1)
    assert await backlog(core[0]) == 0


async def test_a_key_of_another_type_in_the_way_disturbs_nothing_else(
    core: Core, settings: WorkerSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """Ingest runs in the same process: it must not end for that."""
    dead = core[0].keys.dead(2)
    await core[0].command(dead, "SET", dead, "in the way")
    async with running_api(settings) as api:
        await until(lambda: "dead letters are not looked after" in caplog.text)
        assert (await api.client.get("/admin/partitions")).status_code == 500
        await letter_of(core[0], "T1", "x")
        assert len(await api.letters(ticket="T1")) == 1
        assert await api.get("scale") == {"backlog": 0}
