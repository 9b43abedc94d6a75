"""A message goes in by HTTP and comes out on every subscriber's socket, also when a worker is killed midway."""

from __future__ import annotations

import httpx
import pytest

from tests.faults.checker import check
from tests.faults.ground import Ground
from tests.faults.load import Load
from tests.faults.stack import running
from tests.until import until

pytestmark = pytest.mark.faults

TICKETS = 50
EACH = 100


async def test_5000_messages_of_50_tickets_survive_the_death_of_a_worker(ground: Ground) -> None:
    """Each subscriber sees all messages of its ticket in the order of acceptance; the archive holds each once."""
    async with (
        running(ground.folder, ground.redis.url, ground.database_url, workers=2) as stack,
        Load(
            stack.ingests, stack.deliveries, ground.redis.url, ground.database_url, tickets=TICKETS, seed=1, most=EACH
        ) as load,
    ):
        await until(lambda: load.accepted >= TICKETS * EACH // 2, timeout_s=60)
        victim = stack.workers[0]
        assert await victim.metric("workers_partitions") > 0
        victim.kill()
        await load.sent()
        await load.finish()
        evidence = await load.evidence()
        findings = check(evidence)
        assert findings.clean, findings.describe()
        assert load.unexpected == []
        assert sum(map(len, evidence.accepted.values())) == len(evidence.archive) == TICKETS * EACH
        assert [row.status for row in evidence.archive] == ["confirmed"] * TICKETS * EACH
        assert load.watcher.asked > TICKETS, "whether what was shown is archived was asked during the run"
        assert evidence.dead == []
        for client in evidence.clients:
            told = [answer.message_id for answer in evidence.accepted[client.ticket]]
            assert list(dict.fromkeys(message.message_id for message in client.received)) == told
        await _all_confirmed(
            stack.ingests[0].url, [(t, a.message_id) for t, some in evidence.accepted.items() for a in some[::10]]
        )


async def _all_confirmed(ingest: str, messages: list[tuple[str, str]]) -> None:
    """Ask for the fate of *messages*, as a sender would."""
    async with httpx.AsyncClient() as client:
        for ticket, message_id in messages:
            fate = (await client.get(f"http://{ingest}/messages/{ticket}/{message_id}")).json()
            assert (fate["status"], fate["message_id"]) == ("confirmed", message_id)
