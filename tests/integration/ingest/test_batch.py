"""`POST /chat/batch`: each line stands for itself, results in the order of the lines."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.integration.ingest.conftest import StartNode
from tests.integration.ingest.harness import Node

NDJSON = {"content-type": "application/x-ndjson"}


def line(text: str, ticket: str = "12345", **more: Any) -> dict[str, Any]:
    return {"ticket_id": ticket, "sender_id": "1", "message": text, **more}


async def post(node: Node, *lines: dict[str, Any] | bytes) -> list[dict[str, Any]]:
    body = b"".join((one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in lines)
    answer = await node.client.post("/chat/batch", content=body, headers=NDJSON)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    assert answer.content.endswith(b"\n")
    return [json.loads(one) for one in answer.content.splitlines()]


async def test_results_stand_in_the_order_of_the_lines(node: Node) -> None:
    """Good and bad ones mixed; a bad line takes no other along."""
    results = await post(
        node,
        line("a"),
        b"{",
        line("b", client_message_id="k"),
        line(" "),
        b"",
        line("c", client_message_id="k"),
        line("x" * 8_001),
        line("b", client_message_id="k"),
    )
    assert [result.get("code", result.get("status")) for result in results] == [
        "success", "bad_request", "success", "missing_parameters",
        "bad_request", "idempotency_conflict", "invalid", "success",
    ]  # fmt: skip
    assert [result["status"] for result in results if "error" in result] == [400, 400, 400, 409, 422]
    assert results[3]["error"] == "Missing parameters"
    assert results[7] == results[2]
    entries = dict(await node.entries("12345"))
    assert [entries[results[n]["message_id"]]["message"] for n in (0, 2)] == ["a", "b"]
    assert len(entries) == 2


async def test_a_tickets_messages_keep_their_order(node: Node) -> None:
    """Also over several groups, while others send at the same time."""
    lines = [line(f"{n}", ticket=f"t{n % 7}") for n in range(1_000)]
    results, *_ = await asyncio.gather(post(node, *lines), *(node.send(f"other {n}") for n in range(50)))
    assert all(result["status"] == "success" for result in results)
    for ticket in range(7):
        texts = [int(f["message"]) for _, f in await node.entries(f"t{ticket}") if f["ticket_id"] == f"t{ticket}"]
        assert texts == list(range(ticket, 1_000, 7))


async def test_the_last_line_needs_no_line_break(node: Node) -> None:
    """And CR LF is white space to JSON."""
    body = json.dumps(line("a")).encode() + b"\r\n" + json.dumps(line("b")).encode()
    answer = await node.client.post("/chat/batch", content=body, headers=NDJSON)
    assert [json.loads(one)["status"] for one in answer.content.splitlines()] == ["success", "success"]


@pytest.mark.parametrize(
    ("headers", "body", "status", "words"),
    [
        (NDJSON, b"", 400, "Missing parameters"),
        (NDJSON, b"{}\n" * 11, 413, "the batch has 11 lines, allowed: 10"),
        (NDJSON, b" " * 2_049, 413, "the body has 2,049 bytes, allowed: 2,048"),
        (
            {"content-type": "application/json"},
            b"{}",
            415,
            "Content-Type is 'application/json', allowed: application/x-nd",
        ),
        ({**NDJSON, "idempotency-key": "k"}, b"{}", 422, "Idempotency-Key is given for a batch"),
    ],
)
async def test_a_batch_that_is_none_is_refused_whole(
    start_node: StartNode, redis_url: str, headers: dict[str, str], body: bytes, status: int, words: str
) -> None:
    """Before any line is looked at."""
    node = await start_node(redis_url, max_batch_lines=10, max_batch_bytes=2_048)
    answer = await node.client.post("/chat/batch", content=body, headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(words)
    assert await node.entries() == []


async def test_a_line_has_the_limit_of_a_single_message(start_node: StartNode, redis_url: str) -> None:
    """A batch is no way around it."""
    node = await start_node(redis_url, max_body_bytes=1_024)
    results = await post(node, line("a", padding="x" * 1_024), line("b"))
    assert [result["status"] for result in results] == [413, "success"]
