"""`POST /chat/send` over real HTTP on a real Redis."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from schemas.message_id import MessageId
from tests.integration.ingest.conftest import StartNode
from tests.integration.ingest.harness import KEYS, Node
from tests.until import until
from ticketwire.embedded.redis_server import EmbeddedRedis

FORM = {"content-type": "application/x-www-form-urlencoded"}
JSON = {"content-type": "application/json"}


async def test_the_tutorials_curl_line(node: Node) -> None:
    """The very bytes that curl sends: nothing in them is percent-encoded."""
    body = b"ticket_id=12345&sender_id=1&message=Hello, I need assistance with room 101."
    answer = await node.raw(
        b"POST /chat/send HTTP/1.1\r\nHost: localhost:8000\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n"
        b"Content-Length: %d\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n%b" % (len(body), body)
    )
    head, _, text = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"content-type: application/json" in head
    ((entry_id, fields),) = await node.entries("12345")
    assert text.decode() == f'{{"status":"success","message_id":"{entry_id}"}}'
    assert fields == {
        "v": "1",
        "ticket_id": "12345",
        "sender_id": "1",
        "message": "Hello, I need assistance with room 101.",
    }


async def test_the_tutorials_proxy(node: Node) -> None:
    """Its Next.js route sends JSON, with numbers where its database has numbers."""
    answer = await node.client.post("/chat/send", json={"ticket_id": 12345, "sender_id": 1, "message": "Hello"})
    assert answer.status_code == 200
    assert sorted(answer.json()) == ["message_id", "status"]
    ((entry_id, fields),) = await node.entries("12345")
    assert (answer.json()["message_id"], fields["ticket_id"], fields["sender_id"]) == (entry_id, "12345", "1")


async def test_a_multipart_form(node: Node) -> None:
    """What PHP's curl and a page's FormData send."""
    fields: dict[str, Any] = {"ticket_id": (None, "12345"), "sender_id": (None, "1"), "message": (None, "Grüße\r\n!")}
    answer = await node.client.post("/chat/send", files=fields)
    assert answer.status_code == 200
    assert await node.texts() == ["Grüße\n!"]


async def test_the_trace_travels_in_the_entry(node: Node) -> None:
    """From the request's traceparent to whoever reads the stream."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    await node.send(headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
    ((_, fields),) = await node.entries("12345")
    assert fields["trace_id"] == trace


@pytest.mark.parametrize("missing", ["ticket_id", "sender_id", "message"])
@pytest.mark.parametrize("value", [None, "", "  \n"])
async def test_missing_parameters(node: Node, missing: str, value: str | None) -> None:
    """Exactly the tutorial's answer; nothing reaches the stream."""
    fields = {"ticket_id": "12345", "sender_id": "1", "message": "Hello", missing: value}
    fields = {name: text for name, text in fields.items() if text is not None}
    for answer in (
        await node.client.post("/chat/send", data=fields),
        await node.client.post("/chat/send", json=fields),
        await node.client.post("/chat/send"),
    ):
        assert (answer.status_code, answer.content) == (400, b'{"error":"Missing parameters"}')
    assert await node.entries() == []


@pytest.mark.parametrize(
    ("headers", "body", "status", "words"),
    [
        (JSON, b"{", 400, "the JSON cannot be read at line 1, column 2"),
        (JSON, b"[]", 422, "the JSON is of type array, allowed: an object"),
        (JSON, b'{"ticket_id":"1","sender_id":"1","message":["x"]}', 422, "message is of type list"),
        (JSON, b'{"ticket_id":1.5,"sender_id":"1","message":"x"}', 422, "ticket_id is of type float"),
        (JSON, b'{"ticket_id":"1","sender_id":"1","message":"\\ud800"}', 422, "message "),
        (FORM, b"ticket_id=a:b&sender_id=1&message=x", 422, "ticket_id has 'a:b', allowed: 1 to 128 of A-Z"),
        (FORM, b"ticket_id=1&sender_id=1&message=%ff", 422, "the form is not valid UTF-8"),
        (FORM, b"ticket_id=1&sender_id=1&message=a%0db", 422, "message has 3 characters with a control character"),
        (FORM, b"ticket_id=1&sender_id=1&message=" + b"x" * 8_001, 422, "message has 8,001 characters, allowed"),
        (FORM, b"ticket_id=1&ticket_id=2&sender_id=1&message=x", 422, "ticket_id is given twice"),
        (FORM, b"x" * 131_073, 413, "the body has 131,073 bytes, allowed: 131,072"),
        ({"content-type": "text/plain"}, b"x", 415, "Content-Type is 'text/plain', allowed: application/x-www-form"),
        ({}, b"ticket_id=1&sender_id=1&message=x", 415, "there is no Content-Type, allowed: "),
        ({**FORM, "content-encoding": "gzip"}, b"x", 415, "Content-Encoding is 'gzip'"),
        ({**FORM, "idempotency-key": "a b"}, b"ticket_id=1&sender_id=1&message=x", 422, "Idempotency-Key has 3 char"),
        (
            {**FORM, "idempotency-key": "a"},
            b"ticket_id=1&sender_id=1&message=x&client_message_id=b",
            422,
            "Idempotency-Key and client_message_id differ",
        ),
        ({"content-type": "multipart/form-data"}, b"x", 400, "the multipart form cannot be read"),
    ],
)
async def test_a_bad_request_is_answered_in_one_sentence(
    node: Node, headers: dict[str, str], body: bytes, status: int, words: str
) -> None:
    """What was found and what is allowed; and the connection goes on."""
    answer = await node.client.post("/chat/send", content=body, headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(words)
    assert answer.headers["content-type"] == "application/json"
    assert await node.entries() == []
    assert (await node.send()).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/chat/send", 405, "POST"),
        ("PUT", "/chat/send", 405, "POST"),
        ("GET", "/chat/batch", 405, "POST"),
        ("POST", "/messages/1/1-0", 405, "GET"),
        ("GET", "/", 404, None),
        ("POST", "/chat/sendx", 404, None),
    ],
)
async def test_wrong_methods_and_paths(node: Node, method: str, path: str, status: int, allow: str | None) -> None:
    """405 names the methods that the path has (RFC 9110, 15.5.6)."""
    answer = await node.client.request(method, path)
    assert answer.status_code == status
    assert "error" in answer.json()
    assert (allow is None) or allow in answer.headers["allow"]


async def test_a_body_without_length_is_limited_too(node: Node) -> None:
    """Chunked transfer states no length: the limit holds while reading."""
    chunk = b"%x\r\n%b\r\n" % (40_000, b"a" * 40_000)
    answer = await node.raw(
        b"POST /chat/send HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n",
        chunk, chunk, chunk, chunk, b"0\r\n\r\n",
    )  # fmt: skip
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"the body has 160,000 bytes" in answer


async def test_a_body_that_does_not_come_is_given_up(start_node: StartNode, redis_url: str) -> None:
    """408, and the connection is closed: a thousand such clients must not hold a thousand places."""
    node = await start_node(redis_url, body_timeout_ms=100)
    answer = await node.raw(
        b"POST /chat/send HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
    )
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer


async def test_a_client_that_leaves_in_the_middle_leaves_nothing(node: Node) -> None:
    """Half a message is no message, and nobody else notices."""
    _, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(
        b"POST /chat/send HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
    )
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await node.send("whole")).status_code == 200
    assert await node.texts() == ["whole"]


async def test_ids_are_the_order_of_a_sender_who_waits(node: Node) -> None:
    """Each message is on the stream before its answer, so the next one comes after it."""
    ids = [MessageId.parse((await node.send(str(n))).json()["message_id"]) for n in range(50)]
    assert ids == sorted(set(ids))
    assert await node.texts("12345") == [str(n) for n in range(50)]


async def test_many_at_once_are_all_stored_once(node: Node) -> None:
    """Group commit mixes tickets and partitions; each sender gets the id of his own message."""
    answers = await asyncio.gather(*(node.send(f"text {n}", ticket=f"t{n % 40}") for n in range(400)))
    assert {answer.status_code for answer in answers} == {200}
    stored = sorted(f"{fields['ticket_id']} {fields['message']}" for _, fields in await node.entries())
    assert stored == sorted(f"t{n % 40} text {n}" for n in range(400))
    for n, answer in enumerate(answers):
        entries = dict(await node.redis.xrange(KEYS.ingest(KEYS.partition_of(f"t{n % 40}"))))
        assert entries[answer.json()["message_id"]]["message"] == f"text {n}"


async def test_cors_is_off_unless_configured(start_node: StartNode, redis_url: str) -> None:
    """Without the setting a foreign page gets no permission; with it the named one does, and no other."""
    origin = {"origin": "https://desk.example"}
    preflight = {**origin, "access-control-request-method": "POST", "access-control-request-headers": "idempotency-key"}
    plain = await start_node(redis_url)
    assert (await plain.client.options("/chat/send", headers=preflight)).status_code == 405
    assert "access-control-allow-origin" not in (await plain.send(headers=origin)).headers
    open_ = await start_node(redis_url, cors_origins=("https://desk.example",))
    asked = await open_.client.options("/chat/send", headers=preflight)
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, "https://desk.example")
    answer = await open_.send(headers=origin)
    assert answer.headers["access-control-allow-origin"] == "https://desk.example"
    other = await open_.send(headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


async def test_a_fault_of_the_service_says_nothing_of_its_inside(
    start_node: StartNode, own_redis: EmbeddedRedis
) -> None:
    """Redis refuses us for a reason nobody foresaw: 500 in the tutorial's words, and the node lives on."""
    node = await start_node(own_redis.url)
    await node.redis.execute_command("ACL", "SETUSER", "default", "-evalsha", "-eval")
    answer = await node.send()
    assert (answer.status_code, answer.content) == (500, b'{"error":"Internal Server Error"}')
    await node.redis.execute_command("ACL", "SETUSER", "default", "+evalsha", "+eval")
    assert (await node.send()).status_code == 200


async def test_a_stream_that_takes_no_entry_is_its_tickets_trouble_alone(node: Node) -> None:
    """A key of another type in the place of one partition's stream: 503 there, 200 elsewhere, in the same group."""
    ticket, other = (
        "12345",
        next(f"t{n}" for n in range(99) if KEYS.partition_of(f"t{n}") != KEYS.partition_of("12345")),
    )
    await node.redis.set(KEYS.ingest(KEYS.partition_of(ticket)), "in the way")
    await until(lambda: not node.health.ready)
    assert "WRONGTYPE" in node.health.report()["checks"][0]["reason"]
    answers = await asyncio.gather(node.send(ticket=ticket), node.send(ticket=other), node.send(ticket=ticket))
    assert [answer.status_code for answer in answers] == [503, 200, 503]
    assert "WRONGTYPE" in answers[0].json()["error"]
    await node.redis.delete(KEYS.ingest(KEYS.partition_of(ticket)))
    assert (await node.send(ticket=ticket)).status_code == 200
    await until(lambda: node.health.ready)


async def test_answers_are_compact_json_with_their_length(node: Node) -> None:
    """`{"status":"success","message_id":"…-0"}`, byte for byte."""
    answer = await node.send()
    message_id = json.loads(answer.content)["message_id"]
    assert answer.content == b'{"status":"success","message_id":"%b"}' % message_id.encode()
    assert answer.headers["content-length"] == str(len(answer.content))


async def test_the_node_is_ready_as_soon_as_its_port_is_open(node: Node) -> None:
    """Redis was looked at before the first request."""
    assert node.health.ready
    await until(lambda: node.health.report()["checks"][0]["ok"])
