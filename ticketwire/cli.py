"""`ticketwire`: one command for every part. Tiers are imported only when they are asked for."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from ticketwire.errors import SettingsError, TicketwireError
from ticketwire.lifecycle import EXIT_FAULT, EXIT_SETTINGS
from ticketwire.settings import DatabaseUrl, SharedSettings, Variable, load, variables

TIERS = {"ingest": "ingest", "worker": "workers", "delivery": "delivery"}
_TIER_SETTINGS = (
    ("ingest.settings", "IngestSettings"),
    ("workers.settings", "WorkerSettings"),
    ("delivery.settings", "DeliverySettings"),
)
Command = Callable[[argparse.Namespace], int]


class MigrateSettings(BaseSettings):
    """The one thing a migration needs to know."""

    model_config = SettingsConfigDict(env_prefix="TICKETWIRE_", frozen=True, extra="ignore")

    database_url: DatabaseUrl = Field(description="postgresql://user:password@host:5432/name")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code: 0 well, 1 failed, 2 wrong settings or arguments."""
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser(argv).parse_args(argv)
    func: Command = arguments.func
    try:
        return func(arguments)
    except SettingsError as exc:
        print(f"ticketwire {arguments.command}: {exc.detail}", file=sys.stderr)
        return EXIT_SETTINGS
    except TicketwireError as exc:
        print(f"ticketwire {arguments.command}: {exc.detail}", file=sys.stderr)
        return EXIT_FAULT


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ticketwire", description="The message pipeline for chat inside a ticket.")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for tier, package in TIERS.items():
        command = commands.add_parser(tier, help=f"run one {tier} process with settings from the environment")
        command.set_defaults(func=_tier(package))
    migrate = commands.add_parser("migrate", help="bring the database to the newest schema")
    migrate.set_defaults(func=_migrate)
    dev = commands.add_parser("dev", help="run everything here, with a Redis and a PostgreSQL of its own")
    dev.set_defaults(func=_dev)
    if argv[:1] == ["dev"]:
        importlib.import_module("ticketwire.dev.options").add_arguments(dev)
    admin = commands.add_parser("admin", help="look at the running system, send dead letters again")
    admin.set_defaults(func=_admin)
    if argv[:1] == ["admin"]:
        importlib.import_module("ticketwire.admin.commands").add_admin_commands(admin)
    verify = commands.add_parser("verify", help="prove that nothing was lost, doubled or reordered")
    verify.set_defaults(func=_verify)
    if argv[:1] == ["verify"]:
        importlib.import_module("ticketwire.verify.command").add_arguments(verify)
    settings = commands.add_parser("settings", help="print every setting with its default and meaning")
    settings.add_argument("--markdown", action="store_true", help="as docs/settings.md")
    settings.set_defaults(func=_settings)
    if argv[:1] == ["policy"]:
        importlib.import_module("workers.moderation.cli").add_policy_commands(commands)
    else:
        commands.add_parser("policy", help="look at a moderation policy")
    return parser


def _tier(package: str) -> Command:
    def run(_arguments: argparse.Namespace) -> int:
        code: int = importlib.import_module(f"{package}.__main__").main()
        return code

    return run


def _migrate(_arguments: argparse.Namespace) -> int:
    from ticketwire.archive.migrate import upgrade

    upgrade(load(MigrateSettings).database_url.get_secret_value())
    return 0


def _dev(arguments: argparse.Namespace) -> int:
    from ticketwire.dev.options import options_from
    from ticketwire.dev.session import run_dev

    return run_dev(options_from(arguments))


def _admin(arguments: argparse.Namespace) -> int:
    from ticketwire.admin.commands import run_admin

    return run_admin(arguments)


def _verify(arguments: argparse.Namespace) -> int:
    from ticketwire.verify.command import run_verify

    return run_verify(arguments)


def _settings(arguments: argparse.Namespace) -> int:
    print(settings_markdown() if arguments.markdown else settings_text(), end="")
    return 0


def settings_text() -> str:
    """Every variable of every tier, for a terminal."""
    lines = []
    for title, group in _groups():
        lines.append(title)
        for variable in group:
            lines += [f"  {variable.name}={variable.default}", f"      {variable.meaning} [{variable.allowed}]"]
        lines.append("")
    return "\n".join(lines)


def settings_markdown() -> str:
    """The page docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "Environment variables; `ticketwire settings` prints the same. An empty variable counts as not set. Instead of",
        "`NAME` one may set `NAME_FILE` to a file that holds the value. A wrong value stops the start with one line",
        "naming the variable, the value and what is allowed. `ticketwire settings --markdown` makes this page.",
    ]
    for title, group in _groups():
        lines += ["", f"## {title}", "", "| variable | default | allowed | meaning |", "| --- | --- | --- | --- |"]
        for variable in group:
            cells = (f"`{variable.name}`", f"`{variable.default}`", variable.allowed, variable.meaning)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def _groups() -> list[tuple[str, list[Variable]]]:
    shared = variables(SharedSettings)
    known = {variable.name for variable in shared}
    groups = [("All tiers", shared)]
    for module, name in _TIER_SETTINGS:
        kind: Any = getattr(importlib.import_module(module), name)
        own = [variable for variable in variables(kind) if variable.name not in known]
        groups.append((module.partition(".")[0].capitalize(), own))
    return groups


if __name__ == "__main__":
    sys.exit(main())
