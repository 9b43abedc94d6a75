"""The commands under `ticketwire admin`, one for each call of the API."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from ticketwire.admin.client import AdminClient, connected, find_access
from ticketwire.admin.people import add_people_commands
from ticketwire.admin.tables import cell, duration, moment, pairs, progress, table

Show = Callable[[AdminClient, argparse.Namespace], int]


def add_admin_commands(parser: argparse.ArgumentParser) -> None:
    """Declare the commands on the parser of `ticketwire admin`."""
    commands = parser.add_subparsers(dest="admin_command", metavar="command", required=True)
    common = _common()
    dead = commands.add_parser("dead", help="dead letters").add_subparsers(metavar="command", required=True)

    listing = _leaf(dead, "list", "list dead letters", common, _list)
    _add_filter(listing)
    listing.add_argument("--limit", type=_positive, default=50, metavar="N", help="most letters (default: 50)")
    listing.add_argument("--cursor", help="where the list before ended")
    _leaf(dead, "show", "show one dead letter whole", common, _show).add_argument("id", help="07:1616690567456-0")

    replay = _leaf(dead, "replay", "send dead letters again, each once", common, _replay)
    replay.add_argument("ids", nargs="*", metavar="id", help="letters to send; or a filter")
    _add_filter(replay, everything=True)
    replay.add_argument("--dry-run", action="store_true", help="only say what would happen")
    replay.add_argument("--rate", type=float, metavar="N", help="letters per second, at the most")
    replay.add_argument("--why", help="for the record; must be given, but for --dry-run")
    replay.add_argument("--no-wait", action="store_true", help="do not follow a long replay to its end")

    purge = _leaf(dead, "purge", "remove dead letters from Redis; PostgreSQL keeps a copy", common, _purge)
    _add_filter(purge, everything=True)
    purge.add_argument("--expected", type=int, required=True, metavar="N", help="letters the filter must match")
    purge.add_argument("--why", required=True, help="for the record")
    purge.add_argument("--no-wait", action="store_true", help="do not follow a long purge to its end")

    _leaf(commands, "job", "progress of a replay or purge", common, _job).add_argument("id")
    _leaf(commands, "partitions", "backlog, owner, lease and rate of each partition", common, _partitions)
    _leaf(commands, "workers", "the workers and what they own", common, _workers)
    _leaf(commands, "scale", "the number an autoscaler goes by", common, _scale)
    add_people_commands(commands, _leaf, common)
    message = _leaf(commands, "message", "fate and way of one message", common, _message)
    message.add_argument("ticket")
    message.add_argument("message_id")
    audit = _leaf(commands, "audit", "the record of decisions, newest first", common, _audit)
    for option, meaning in (("actor", "who"), ("action", "what"), ("subject", "to what")):
        audit.add_argument(f"--{option}", help=f"only rows of this one: {meaning} it was")
    audit.add_argument("--before", type=_positive, metavar="NUMBER", help="rows before this one")
    audit.add_argument("--limit", type=_positive, default=50, metavar="N", help="most rows (default: 50)")


def run_admin(arguments: argparse.Namespace) -> int:
    """Run one command. Returns the exit code; raises TicketwireError."""
    show: Show = arguments.show
    if show in (_replay, _purge):
        _check_choice(arguments)
    with connected(find_access(arguments.url, arguments.key, arguments.actor_name)) as client:
        return show(client, arguments)


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--url", help="of the admin API (TICKETWIRE_ADMIN_URL; default: http://127.0.0.1:9000)")
    common.add_argument("--key", help="its key; other users of this machine can see it: better TICKETWIRE_ADMIN_KEY")
    common.add_argument("--as", dest="actor_name", metavar="NAME", help="who you are, for the record")
    common.add_argument("--json", action="store_true", help="print what the API answers")
    return common


def _leaf(commands: Any, name: str, meaning: str, common: argparse.ArgumentParser, show: Show) -> Any:
    command = commands.add_parser(name, help=meaning, parents=[common])
    command.set_defaults(show=show, usage=command.error)
    return command


def _add_filter(parser: Any, *, everything: bool = False) -> None:
    parser.add_argument("--reason", help="why they were buried, such as poison")
    parser.add_argument("--ticket")
    parser.add_argument("--since", metavar="TIME", help="buried at or after: 2026-01-31T12:00:00Z or Unix milliseconds")
    parser.add_argument("--until", metavar="TIME", help="buried before")
    if everything:
        parser.add_argument("--all", action="store_true", help="all there are")


def _positive(text: str) -> int:
    if text.isascii() and text.isdigit() and 0 < int(text) < 2**63:
        return int(text)
    raise argparse.ArgumentTypeError(f"found {text!r}, allowed is a whole number from 1")


def _filter(arguments: argparse.Namespace) -> dict[str, str]:
    names = ("reason", "ticket", "since", "until")
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}


def _check_choice(arguments: argparse.Namespace) -> None:
    """All letters only if that is what was said."""
    choices = [bool(getattr(arguments, "ids", None)), bool(_filter(arguments)), arguments.all]
    if sum(choices) != 1:
        arguments.usage(
            "name letters by their ids, or by a filter (--reason, --ticket, --since, --until), or say --all"
        )


# --- dead letters


def _list(client: AdminClient, arguments: argparse.Namespace) -> int:
    letters: list[dict[str, Any]] = []
    cursor = arguments.cursor
    while True:  # a page may be short, or empty, and yet not the last
        limit = min(1_000, arguments.limit - len(letters))
        page = client.get("dead-letters", **_filter(arguments), limit=limit, cursor=cursor)
        letters += page["letters"]
        cursor = page["next_cursor"]
        if cursor is None or len(letters) >= arguments.limit:
            break
    if arguments.json:
        return _print_json({"letters": letters, "next_cursor": cursor})
    columns = ("id", "buried", "ticket", "reason", "stage", "attempts", "error")
    rows = [
        (x["id"], moment(x["last_at_ms"]), x["ticket_id"], x["reason"], x["stage"], x["attempts"], x["error"])
        for x in letters
    ]
    print(table(columns, rows) if rows else "no dead letters")
    if cursor is not None:
        print(f"more: --cursor {cursor}")
    return 0


def _show(client: AdminClient, arguments: argparse.Namespace) -> int:
    letter = client.get("dead-letters", arguments.id)
    if arguments.json:
        return _print_json(letter)
    fields = letter.pop("fields")
    print(pairs(_with_moments(letter)))
    print("\nthe entry:")
    for name, value in fields:
        print(f"  {cell(name)} = {cell(value)}")
    return 0


def _replay(client: AdminClient, arguments: argparse.Namespace) -> int:
    body: dict[str, Any] = {"ids": arguments.ids} if arguments.ids else {"filter": _filter(arguments)}
    body["dry_run"] = arguments.dry_run
    body |= {name: getattr(arguments, name) for name in ("rate", "why") if getattr(arguments, name) is not None}
    return _follow(client, arguments, client.post("dead-letters", "replay", body=body))


def _purge(client: AdminClient, arguments: argparse.Namespace) -> int:
    body = {"filter": _filter(arguments), "expected": arguments.expected, "why": arguments.why}
    return _follow(client, arguments, client.post("dead-letters", "purge", body=body))


def _follow(client: AdminClient, arguments: argparse.Namespace, job: dict[str, Any]) -> int:
    if not arguments.no_wait:
        job = client.follow(job, _tell if sys.stderr.isatty() else lambda _job: None)
        if sys.stderr.isatty():
            print(file=sys.stderr)
    return _print_json(job, _code(job)) if arguments.json else _print_job(job)


def _tell(job: dict[str, Any]) -> None:
    elapsed = time.time() - job["started_at_ms"] / 1000
    line = progress(job["kind"], job["done"], job["total"], elapsed)
    print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)


def _job(client: AdminClient, arguments: argparse.Namespace) -> int:
    job = client.get("jobs", arguments.id)
    return _print_json(job, _code(job)) if arguments.json else _print_job(job)


def _print_job(job: dict[str, Any]) -> int:
    rows = [(x["id"], x["outcome"], x.get("new_id")) for x in job["letters"]]
    if rows:
        print(table(("id", "outcome", "new id"), rows))
        if job["done"] > len(rows):
            print(f"… and {job['done'] - len(rows):,} more")
    print(f"{job['kind']} {job['job_id']}: {job['state']}, {job['done']:,} of {cell(job['total'])}: ", end="")
    print(cell(job["outcomes"]))
    if job["error"] is not None:
        print(job["error"]["error"], file=sys.stderr)
    elif job["state"] in ("lost", "interrupted"):
        print("the process that ran it has ended: start it again, and it goes on where it was", file=sys.stderr)
    return _code(job)


def _code(job: dict[str, Any]) -> int:
    return 0 if job["state"] in ("done", "running") else 1


# --- the system


def _partitions(client: AdminClient, arguments: argparse.Namespace) -> int:
    found = client.get("partitions")
    if arguments.json:
        return _print_json(found)
    columns = ("partition", "backlog", "pending", "oldest", "owner", "lease", "done", "per s", "dead")
    rows = []
    for x in found["partitions"]:
        lease = duration(x["lease_ends_at_ms"] - x["at_ms"]) if x["owner"] else None
        rows.append(
            (
                x["partition"],
                x["backlog"],
                x["pending"],
                duration(x["oldest_age_ms"]),
                x["owner"],
                lease,
                x["done"],
                x["settled_per_second"],
                x["dead_letters"],
            )
        )
    print(table(columns, rows))
    print(f"backlog {found['backlog']:,}")
    return 0


def _workers(client: AdminClient, arguments: argparse.Namespace) -> int:
    found = client.get("workers")
    if arguments.json:
        return _print_json(found)
    rows = [(x["worker"], x["alive"], len(x["partitions"]), x["partitions"]) for x in found["workers"]]
    print(table(("worker", "alive", "owns", "partitions"), rows) if rows else "no workers")
    return 0


def _scale(client: AdminClient, arguments: argparse.Namespace) -> int:
    found = client.get("scale")
    if arguments.json:
        return _print_json(found)
    print(found["backlog"])
    return 0


def _message(client: AdminClient, arguments: argparse.Namespace) -> int:
    found = client.get("messages", arguments.ticket, arguments.message_id)
    if arguments.json:
        return _print_json(found)
    trace: dict[str, Any] | None = found
    while trace is not None:
        steps, decisions, following = trace.pop("steps"), trace.pop("decisions"), trace.pop("next", None)
        print(pairs({name: value for name, value in trace.items() if value is not None}))
        print()
        rows = [
            (s["step"], moment(s["at_ms"]), {k: v for k, v in s.items() if k not in ("step", "at_ms")}) for s in steps
        ]
        print(table(("step", "when", "what"), rows))
        for d in decisions:
            print(
                f"decision {d['number']}: {d['action']} by {cell(d['actor'])}, {moment(d['at_ms'])}: {cell(d['why'])}"
            )
        trace = following
        if trace is not None:
            print("\nsent again as:\n")
    return 0


def _audit(client: AdminClient, arguments: argparse.Namespace) -> int:
    names = ("before", "limit", "actor", "action", "subject")
    found = client.get("audit", **{name: getattr(arguments, name) for name in names})
    if arguments.json:
        return _print_json(found)
    columns = ("number", "when", "who", "action", "subject", "why", "detail")
    rows = [
        (r["number"], moment(r["at_ms"]), r["actor"], r["action"], r["subject"], r["why"], r["detail"])
        for r in found["rows"]
    ]
    print(table(columns, rows) if rows else "nothing recorded")
    if found["next_before"] is not None:
        print(f"more: --before {found['next_before']}")
    return 0


def _with_moments(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name.removesuffix("_ms"): moment(value) if name.endswith("_at_ms") else value for name, value in values.items()
    }


def _print_json(value: dict[str, Any], code: int = 0) -> int:
    print(json.dumps(value, indent=2, ensure_ascii=False))
    return code
