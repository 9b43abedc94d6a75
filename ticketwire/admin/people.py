"""`ticketwire admin held | mute | unmute | redact`: what people decide about messages and senders."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from ticketwire.admin.client import AdminClient
from ticketwire.admin.tables import moment, pairs, table

Leaf = Callable[..., Any]


def add_people_commands(commands: Any, leaf: Leaf, common: argparse.ArgumentParser) -> None:
    """Declare the commands; *leaf* makes one, as in `commands`."""
    held = commands.add_parser("held", help="messages that wait for a person").add_subparsers(
        metavar="command", required=True
    )
    listing = leaf(held, "list", "list undecided messages, oldest first", common, _list)
    listing.add_argument("--limit", type=int, default=50, metavar="N", help="most messages (default: 50)")
    listing.add_argument("--cursor", help="where the list before ended")
    for name, meaning in (("approve", "show a message at the end of its log"), ("reject", "never show a message")):
        command = leaf(held, name, meaning, common, _decide(name))
        _add_message(command)
    mute = leaf(commands, "mute", "reject what a sender sends, for a time", common, _mute)
    mute.add_argument("sender")
    mute.add_argument("--seconds", type=int, required=True, metavar="N")
    mute.add_argument("--why", required=True, help="for the record")
    unmute = leaf(commands, "unmute", "let a sender be heard again", common, _unmute)
    unmute.add_argument("sender")
    unmute.add_argument("--why", required=True, help="for the record")
    redact = leaf(commands, "redact", "take a shown message back: its text is gone, readers are told", common, _redact)
    _add_message(redact)
    redact.add_argument("--replacement", metavar="TEXT", help="what readers see instead; without it nothing is left")


def _add_message(command: Any) -> None:
    command.add_argument("ticket")
    command.add_argument("message_id")
    command.add_argument("--why", required=True, help="for the record")


def _list(client: AdminClient, arguments: argparse.Namespace) -> int:
    page = client.get("held", limit=arguments.limit, cursor=arguments.cursor)
    if arguments.json:
        return _print(page, arguments)
    rows = [
        (x["ticket_id"], x["message_id"], moment(x["accepted_at_ms"]), x["sender_id"], _rules(x), x["message"])
        for x in page["held"]
    ]
    print(table(("ticket", "message", "accepted", "sender", "rules", "text"), rows) if rows else "no held messages")
    if page["next_cursor"] is not None:
        print(f"more: --cursor {page['next_cursor']}")
    return 0


def _rules(held: dict[str, Any]) -> str:
    verdict = held["verdict"] or {"hits": []}
    return ", ".join(f"{hit['rule']}@{hit['version']}" for hit in verdict["hits"])


def _decide(decision: str) -> Callable[[AdminClient, argparse.Namespace], int]:
    def run(client: AdminClient, arguments: argparse.Namespace) -> int:
        path = ("held", arguments.ticket, arguments.message_id, decision)
        return _print(client.post(*path, body={"why": arguments.why}), arguments)

    return run


def _mute(client: AdminClient, arguments: argparse.Namespace) -> int:
    body = {"seconds": arguments.seconds, "why": arguments.why}
    return _print(client.post("senders", arguments.sender, "mute", body=body), arguments)


def _unmute(client: AdminClient, arguments: argparse.Namespace) -> int:
    return _print(client.post("senders", arguments.sender, "unmute", body={"why": arguments.why}), arguments)


def _redact(client: AdminClient, arguments: argparse.Namespace) -> int:
    path = ("messages", arguments.ticket, arguments.message_id)
    body = {"why": arguments.why}
    if arguments.replacement is not None:
        body["replacement"] = arguments.replacement
    return _print(client.delete(*path, body=body), arguments)


def _print(answer: dict[str, Any], arguments: argparse.Namespace) -> int:
    print(json.dumps(answer, ensure_ascii=False, indent=2) if arguments.json else pairs(answer))
    return 0
