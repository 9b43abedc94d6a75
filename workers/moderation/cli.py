"""`ticketwire policy check` and `ticketwire policy try`: a policy looked at without a worker."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from workers.moderation.chain import verdicts
from workers.moderation.policy import ExternalRule, PolicyError, policy_schema
from workers.moderation.policy_files import default_policy_path, load_policy
from workers.moderation.rejudge import parse_duration, rejudge
from workers.moderation.rules import RuleSet
from workers.moderation.verdict import Candidate, Verdict

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

# Lines are judged as if one came each minute, so that no line makes the next one a flood.
_APART_MS = 60_000


class InputError(ValueError):
    """A line of `--jsonl` that is no message."""


def check(path: Path, out: TextIO, err: TextIO) -> int:
    """Print what the policy at *path* holds, or why it cannot be used. Returns the exit code."""
    try:
        policy = load_policy(path)
        RuleSet(policy)
    except PolicyError as exc:
        print(exc, file=err)
        return 1
    print(f"{path}: {len(policy.document.rules)} rules, digest {policy.digest[:12]}", file=out)
    for rule in policy.document.rules:
        action = "by score" if isinstance(rule, ExternalRule) else rule.action.value
        print(f"  {rule.id} v{rule.version}  {rule.kind}  {action}", file=out)
    return 0


def try_(path: Path, candidates: Iterable[Candidate], out: TextIO, err: TextIO) -> int:
    """Judge *candidates* by the policy at *path* and print a line of JSON for each, in their order.

    The external moderator is not asked. Returns the exit code.
    """
    try:
        rules = RuleSet(load_policy(path))
        for _, verdict in verdicts(rules, candidates):
            print(json.dumps(as_line(verdict)), file=out)
    except PolicyError as exc:
        print(exc, file=err)
        return 1
    except InputError as exc:
        print(exc, file=err)
        return 2
    return 0


def as_line(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as `policy try` prints it."""
    return {"action": verdict.action.value, "rules": [hit.rule for hit in verdict.hits], "text": verdict.text}


def read_candidates(lines: Iterable[str], name: str) -> Iterator[Candidate]:
    """Yield the messages of a JSON Lines file; raises `InputError` for a line that is none.

    A line without `sender_id` comes from a sender of its own.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise InputError(f"{name}:{number}: found an empty line, one JSON object is needed")
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as exc:
            raise InputError(f"{name}:{number}: is no JSON: {exc}") from exc
        if not isinstance(value, dict) or not isinstance(value.get("text"), str):
            raise InputError(f'{name}:{number}: found no "text", an object with a text is needed')
        texts = {key: value.get(key, "") for key in ("sender_id", "ticket_id", "role")}
        for key, text in texts.items():
            if not isinstance(text, str):
                raise InputError(f'{name}:{number}: found {text!r} as "{key}", a string is needed')
        yield Candidate(
            texts["ticket_id"] or "try",
            texts["sender_id"] or f"line-{number}",
            value["text"],
            number * _APART_MS,
            texts["role"],
        )


def _check(args: argparse.Namespace) -> int:
    return check(args.file, sys.stdout, sys.stderr)


def _try(args: argparse.Namespace) -> int:
    path = args.file or default_policy_path()
    if args.text is not None:
        candidate = Candidate("try", "line-1", args.text, _APART_MS, args.role)
        return try_(path, [candidate], sys.stdout, sys.stderr)
    if args.since is not None:
        try:
            return rejudge(path, args.since, sys.stdout, sys.stderr)
        except PolicyError as exc:
            print(exc, file=sys.stderr)
            return 1
    if str(args.jsonl) == "-":
        return try_(path, read_candidates(sys.stdin, "stdin"), sys.stdout, sys.stderr)
    try:
        with args.jsonl.open(encoding="utf-8") as lines:
            return try_(path, read_candidates(lines, str(args.jsonl)), sys.stdout, sys.stderr)
    except OSError as exc:
        print(f"cannot read {args.jsonl}: {exc.strerror}", file=sys.stderr)
        return 2
    except UnicodeDecodeError:
        print(f"{args.jsonl} is not UTF-8, only that is allowed", file=sys.stderr)
        return 2


def _duration(text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


def _schema(_args: argparse.Namespace) -> int:
    print(json.dumps(policy_schema(), indent=2))
    return 0


def add_policy_commands(subparsers: Subparsers) -> None:
    """Add `policy` with its commands; each sets `func(args) -> exit code`."""
    policy = subparsers.add_parser("policy", help="look at a moderation policy")
    commands = policy.add_subparsers(dest="policy_command", required=True)

    checked = commands.add_parser("check", help="say whether a policy file can be used")
    checked.add_argument("file", type=Path)
    checked.set_defaults(func=_check)

    tried = commands.add_parser("try", help="say what a policy does to messages; the default policy without FILE")
    tried.add_argument("file", type=Path, nargs="?")
    source = tried.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", help="one message")
    source.add_argument("--jsonl", type=Path, help='one message a line: {"text": ...}; - reads standard input')
    source.add_argument(
        "--since", type=_duration, metavar="24h", help="what is archived of this time: what would change"
    )
    tried.add_argument("--role", default="", help="of the sender of --text")
    tried.set_defaults(func=_try)

    schema = commands.add_parser("schema", help="print the JSON Schema of a policy file")
    schema.set_defaults(func=_schema)
