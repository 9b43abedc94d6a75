"""The same idempotency key gives the same message id; another message under it is refused."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.ingest.conftest import StartNode
from tests.integration.ingest.harness import KEYS, Node

KEY = {"idempotency-key": "k1"}


@pytest.mark.parametrize(
    "again", [{"headers": KEY}, {"headers": {"idempotency-key": '"k1"'}}, {"client_message_id": "k1"}]
)
async def test_a_repeat_gets_the_first_ones_id(node: Node, again: dict[str, object]) -> None:
    """However the key is written; one entry, which carries the key."""
    first = await node.send(headers=KEY)
    repeat = await node.send(**again)
    assert (repeat.status_code, repeat.content) == (200, first.content)
    ((entry_id, fields),) = await node.entries("12345")
    assert entry_id == first.json()["message_id"]
    assert fields["client_message_id"] == "k1"


async def test_another_text_under_the_key_is_a_conflict(node: Node) -> None:
    """409 with the id of the message that has the key; nothing is stored."""
    first = await node.send(headers=KEY)
    other = await node.send("Another text", headers=KEY)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    assert first.json()["message_id"] in other.json()["error"]
    assert await node.texts() == ["Hello"]


async def test_a_key_belongs_to_its_sender_and_ticket(node: Node) -> None:
    """Two clients that both count from one do not meet."""
    answers = [
        await node.send(headers=KEY),
        await node.send(headers=KEY, sender_id="2"),
        await node.send(headers=KEY, ticket="12346"),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert len(await node.entries()) == 3


async def test_a_forms_line_break_is_no_difference(node: Node) -> None:
    """The digest is of what is stored, so a form and its JSON retry are one message."""
    first = await node.send("a\r\nb", headers=KEY)
    fields = {"ticket_id": "12345", "sender_id": "1", "message": "a\nb", "client_message_id": "k1"}
    repeat = await node.client.post("/chat/send", json=fields)
    assert repeat.content == first.content


async def test_many_repeats_at_once_are_one_message(node: Node) -> None:
    """Also within one group, and across groups."""
    answers = await asyncio.gather(*(node.send(headers=KEY) for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["message_id"] for answer in answers}) == 1
    assert len(await node.entries()) == 1


async def test_a_conflict_takes_no_other_along(node: Node) -> None:
    """In one group: the first holder of the key and a bystander are stored, the second text is refused."""
    answers = await asyncio.gather(
        node.send("first", headers=KEY), node.send("second", headers=KEY), node.send("bystander")
    )
    assert sorted(answer.status_code for answer in answers) == [200, 200, 409]
    assert answers[2].status_code == 200
    assert len(await node.entries()) == 2


async def test_without_a_key_equal_messages_are_two(node: Node) -> None:
    """Someone may well say "Hello" twice."""
    assert (await node.send()).json() != (await node.send()).json()
    assert len(await node.entries()) == 2


async def test_keys_are_kept_as_long_as_the_setting_says(start_node: StartNode, redis_url: str) -> None:
    """And no longer: they are 88 bytes each."""
    node = await start_node(redis_url, idempotency_hours=2.0)
    await node.send(headers=KEY)
    key = KEYS.idempotency(KEYS.partition_of("12345"), "12345", "1", "k1")
    assert 7_100_000 < await node.redis.pttl(key) <= 7_200_000
