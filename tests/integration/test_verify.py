"""`ticketwire verify` finds each kind of damage, and nothing on a healthy system, however busy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from schemas.message_id import MessageId
from tests.integration.admin.harness import Core, bury_some, letter_of
from tests.pipeline import drained, flood, make_settings, open_all, raw, submit, working
from tests.until import until
from ticketwire.archive.audit import Audit
from ticketwire.archive.rows import ArchiveRow
from ticketwire.cli import main
from ticketwire.verify.report import Report
from ticketwire.verify.verifier import Verifier
from workers.settings import WorkerSettings


@pytest.fixture
def settings(redis_url: str, postgres_url: str) -> WorkerSettings:
    return make_settings(redis_url, postgres_url)


@pytest.fixture
async def core(settings: WorkerSettings) -> AsyncIterator[Core]:
    async with open_all(settings) as both:
        yield both


async def verified(core: Core, settings: WorkerSettings, **options: object) -> Report:
    given = {"patience_s": 0.0, **options}
    return await Verifier(*core, settings.shared, **given).run()  # type: ignore[arg-type]


async def worked(core: Core, settings: WorkerSettings) -> dict[str, list[tuple[str, str]]]:
    async with working(core, settings):
        sent = await flood(core[0], tickets=6, each=5)
        await bury_some(core[0], 2, 2)
        await drained(core[0])
    return sent


def broken(report: Report) -> dict[str, list[str]]:
    return {check.name: check.violations for check in report.checks if check.violations}


async def test_a_busy_healthy_system_raises_no_alarm(core: Core, settings: WorkerSettings) -> None:
    """Messages are accepted, handled, buried and sent again all the while, and a worker comes and goes."""
    stop = asyncio.Event()

    async def busy() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            await submit(core[0], f"T{n % 20}", f"m{n}")
            if n % 50 == 0:
                await raw(core[0], f"T{n % 20}", "v", "9", "message", "x")

    async with working(core, settings) as fleet:
        await until(lambda: fleet.owned == 4)
        work = asyncio.create_task(busy())
        reports = [await verified(core, settings, patience_s=None, must_run=True) for _ in range(5)]
        async with working(core, settings) as second:
            await until(lambda: second.owned == 2)
            reports += [await verified(core, settings, patience_s=None, must_run=True) for _ in range(5)]
        stop.set()
        await work
        await drained(core[0])
    reports.append(await verified(core, settings))
    assert [broken(report) for report in reports] == [{}] * 11
    assert reports[-1].checks[1].looked_at == reports[-1].checks[2].looked_at > 100


async def test_a_stopped_system_with_messages_waiting_is_whole(core: Core, settings: WorkerSettings) -> None:
    """Nobody works, which is told but is no fault, unless it should run."""
    await worked(core, settings)
    await flood(core[0], tickets=3, each=3)
    report = await verified(core, settings)
    assert broken(report) == {}
    assert (report.checks[4].verdict, report.checks[4].note[:17]) == ("not judged", "no worker runs; -")
    report = await verified(core, settings, must_run=True)
    assert [sentence[:24] for sentence in broken(report)["owners"]] == [f"partition {p} has no owner" for p in range(4)]


Damage = Callable[[Core, "dict[str, list[tuple[str, str]]]"], Awaitable[object]]


async def _stranded(core: Core, sent: dict[str, list[tuple[str, str]]]) -> None:
    stream = core[0].keys.ingest(core[0].keys.partition_of("T1"))
    entry_id = await submit(core[0], "T1", "read by a stale reader")
    await core[0].command(stream, "XREADGROUP", "GROUP", "workers", "stranger", "STREAMS", stream, ">")
    await core[0].command(stream, "XACK", stream, "workers", entry_id)


async def _deleted_by_hand(core: Core, sent: dict[str, list[tuple[str, str]]]) -> None:
    stream = core[0].keys.ingest(core[0].keys.partition_of("T1"))
    await core[0].command(stream, "XDEL", stream, await submit(core[0], "T1", "gone"))


async def _not_archived(core: Core, sent: dict[str, list[tuple[str, str]]]) -> None:
    await core[1].database.execute("DELETE FROM messages WHERE ticket_id = 'T1' AND body = 'T1 3'")


async def _other_text(core: Core, sent: dict[str, list[tuple[str, str]]]) -> None:
    await core[1].database.execute("UPDATE messages SET body = 'masked' WHERE ticket_id = 'T1' AND body = 'T1 3'")


async def _shown_though_held(core: Core, sent: dict[str, list[tuple[str, str]]]) -> None:
    await core[1].database.execute("UPDATE messages SET status = 'held' WHERE ticket_id = 'T1' AND body = 'T1 3'")


async def _not_in_log(core: Core, sent: dict[str, list[tuple[str, str]]]) -> None:
    await core[0].command(core[0].keys.log("T1"), "XDEL", core[0].keys.log("T1"), sent["T1"][3][0])


async def _log_without_end(core: Core, sent: dict[str, list[tuple[str, str]]]) -> None:
    await core[0].command(core[0].keys.log("T1"), "XDEL", core[0].keys.log("T1"), sent["T1"][4][0])


async def _buried_and_archived(core: Core, sent: dict[str, list[tuple[str, str]]]) -> None:
    ms, seq = MessageId.parse(await letter_of(core[0], "T1", "twice"))
    row = ArchiveRow("T1", ms, seq, core[0].keys.partition_of("T1"), "1", "twice", "rejected", ms // 1000)
    await core[1].store([row])


async def _record_changed(core: Core, sent: dict[str, list[tuple[str, str]]]) -> None:
    await Audit(core[1].database).record("ann", "purge", "x", "because", {})
    await core[1].database.execute("UPDATE audit SET actor = 'bob'")


@pytest.mark.parametrize(
    ("damage", "check", "told"),
    [
        (_stranded, "entries", "1 entries were read and are in nobody's hand"),
        (_deleted_by_hand, "entries", "1 entries left its stream without a fate"),
        (_not_archived, "archived", "is in the log, but not in the archive"),
        (_other_text, "archived", "log and archive differ in text"),
        (_shown_though_held, "archived", "is in the log, but archived as held"),
        (_not_in_log, "shown", "archived as confirmed, but not in its log"),
        (_log_without_end, "shown", "archived as confirmed, but not in its log"),
        (_buried_and_archived, "fates", "(poison) is archived as well"),
        (_record_changed, "record", "row 1 was changed"),
    ],
)
async def test_each_kind_of_damage_is_found_and_named(
    core: Core, settings: WorkerSettings, damage: Damage, check: str, told: str
) -> None:
    """And only that one is."""
    sent = await worked(core, settings)
    await damage(core, sent)
    found = broken(await verified(core, settings))
    assert list(found) == [check]
    (sentence,) = found[check]
    assert told in sentence


async def test_a_letter_whose_entry_waits_as_well_is_found(core: Core, settings: WorkerSettings) -> None:
    stream = core[0].keys.ingest(core[0].keys.partition_of("T9"))
    entry_id = await letter_of(core[0], "T9", "x")
    await core[0].command(stream, "DEL", stream)
    await core[0].command(stream, "XADD", stream, entry_id, "ticket_id", "T9", "sender_id", "1", "message", "x")
    (sentence,) = broken(await verified(core, settings))["fates"]
    assert sentence.endswith("is on the ingest stream as well")


async def test_a_partition_that_nobody_can_have_is_found_while_workers_live(
    core: Core, settings: WorkerSettings
) -> None:
    """Their leases were given to a worker of the future that does not exist, then ended."""
    async with working(core, settings) as fleet:
        await until(lambda: fleet.owned == 4)
    await core[0].command("workers", "ZADD", "workers", 9_999_999_999_999, "w-1")
    lease = core[0].keys.lease(1)
    for p in (0, 2, 3):
        key = core[0].keys.lease(p)
        await core[0].command(key, "HSET", key, "owner", "w-1", "expires", 9_999_999_999_999)
    await core[0].command(lease, "HSET", lease, "owner", "w-1", "expires", 1_000)
    (sentence,) = broken(await verified(core, settings))["owners"]
    assert sentence.startswith("partition 1 has no owner, the last lease ended ")


async def test_what_is_older_than_since_is_not_looked_at(core: Core, settings: WorkerSettings) -> None:
    sent = await worked(core, settings)
    await _not_archived(core, sent)
    await _not_in_log(core, {"T1": sent["T2"][:3] + [sent["T1"][0]] * 2})
    later = MessageId.parse(sent["T1"][3][0]).ms + 1
    async with working(core, settings):
        await submit(core[0], "T1", "later")
        await drained(core[0])
    assert broken(await verified(core, settings, since_ms=later)) == {}
    assert list(broken(await verified(core, settings))) == ["archived"]


async def test_a_log_longer_than_a_page_and_trimmed_is_followed(redis_url: str, postgres_url: str) -> None:
    """2,300 messages of one ticket, of which the log keeps about a thousand."""
    settings = make_settings(redis_url, postgres_url)
    async with open_all(settings) as core:
        stream = core[0].keys.ingest(core[0].keys.partition_of("T1"))
        fields = ("ticket_id", "T1", "sender_id", "1", "message", "m")
        await core[0].call(stream, *(("XADD", stream, "*", *fields) for _ in range(2_300)))
        async with working(core, settings):
            await drained(core[0])
        report = await verified(core, settings)
        assert broken(report) == {}
        length = int(await core[0].command(core[0].keys.log("T1"), "XLEN", core[0].keys.log("T1")))
        assert (length < 2_300, report.checks[1].looked_at, report.checks[2].looked_at) == (True, length, length)
        middle = (await core[0].command(core[0].keys.log("T1"), "XRANGE", core[0].keys.log("T1"), "-", "+"))[700][0]
        await core[0].command(core[0].keys.log("T1"), "XDEL", core[0].keys.log("T1"), middle)
        (sentence,) = broken(await verified(core, settings))["shown"]
        assert middle in sentence


async def test_every_kind_of_redis_can_be_verified(bus_url: str, postgres_url: str) -> None:
    """Cluster has its logs on several nodes, 6.2 counts less."""
    settings = make_settings(bus_url, postgres_url)
    async with open_all(settings) as core:
        sent = await worked(core, settings)
        report = await verified(core, settings)
        assert (broken(report), report.checks[1].looked_at) == ({}, 30)
        await _not_archived(core, sent)
        await _stranded(core, sent)
        assert set(broken(await verified(core, settings))) == {"archived", "entries"}


async def test_the_command_prints_a_table_or_json_and_its_code_tells_the_verdict(
    core: Core, settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent = await worked(core, settings)
    for name, value in {
        "REDIS_URL": settings.shared.redis_url.get_secret_value(),
        "DATABASE_URL": settings.shared.database_url.get_secret_value(),
        "PARTITIONS": "4",
        "AUTH": "off",
    }.items():
        monkeypatch.setenv(f"TICKETWIRE_{name}", value)
    assert await asyncio.to_thread(main, ["verify"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["CHECK", "VERDICT", "LOOKED", "AT", "VIOLATIONS", "PROMISE"]
    assert out[-1].startswith("whole")
    await _not_in_log(core, sent)
    assert await asyncio.to_thread(main, ["verify", "--json", "--patience", "0"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [c["check"] for c in report["checks"] if c["violations"]] == ["shown"]
    monkeypatch.setenv("TICKETWIRE_PARTITIONS", "8")
    assert await asyncio.to_thread(main, ["verify"]) == 2


async def test_a_redis_that_was_never_started_on_is_refused_and_stays_empty(
    redis_url: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A look must not fix the number of partitions for ever."""
    for name, value in {"REDIS_URL": redis_url, "DATABASE_URL": postgres_url, "AUTH": "off"}.items():
        monkeypatch.setenv(f"TICKETWIRE_{name}", value)
    assert await asyncio.to_thread(main, ["verify"]) == 2
    assert "nothing of ours was ever started" in capsys.readouterr().err
    from redis.asyncio import Redis

    async with Redis.from_url(redis_url) as client:
        assert await client.dbsize() == 0
