"""What `ticketwire dev` can be told, and which ports it uses."""

from __future__ import annotations

import argparse
import socket
from dataclasses import dataclass
from pathlib import Path

from ticketwire.embedded.process import free_port
from ticketwire.errors import SettingsError

INGEST_PORT = 8_000
_FIRST_INTERNAL = 9_101
_MOST_WORKERS = 64


@dataclass(frozen=True, slots=True)
class Ports:
    """The port of everything that listens; all of them known before anything starts."""

    ingest: int
    admin: int
    delivery: int
    ingest_internal: int
    delivery_internal: int
    worker_internal: tuple[int, ...]  # one per worker
    redis: int
    postgres: int


@dataclass(frozen=True, slots=True)
class DevOptions:
    host: str
    data_dir: Path
    ports: Ports

    @property
    def workers(self) -> int:
        return len(self.ports.worker_internal)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--host", default="127.0.0.1", help="address of all ports (default: %(default)s, this machine)")
    parser.add_argument("--data-dir", type=Path, default=Path(".ticketwire"), help="default: %(default)s")
    parser.add_argument("--workers", type=_workers, default=1, metavar="N", help="worker processes (default: 1)")
    for option, default, meaning in (
        ("ingest-port", INGEST_PORT, "POST /chat/send"),
        ("admin-port", 9_000, "/admin of ingest"),
        ("delivery-port", 8_080, "WebSocket, history, chat page"),
        ("ingest-internal-port", _FIRST_INTERNAL, "/readyz and /metrics of ingest"),
        ("delivery-internal-port", _FIRST_INTERNAL + 1, "the same of delivery"),
        ("worker-internal-port", _FIRST_INTERNAL + 2, "the same of the first worker; the next ones follow"),
        ("redis-port", 0, "embedded Redis"),
        ("postgres-port", 0, "embedded PostgreSQL"),
    ):
        default_text = f"{default}; 0: a free one" if default else "0: a free one"
        parser.add_argument(
            f"--{option}",
            type=_port,
            default=default,
            metavar="PORT",
            help=f"{meaning} (default: {default_text})",
        )


def options_from(arguments: argparse.Namespace) -> DevOptions:
    """Choose free ports where 0 was given. Raises SettingsError when a port is taken, or given twice."""
    host, taken = arguments.host, _Taken(arguments.host)
    first = arguments.worker_internal_port
    return DevOptions(
        host=host,
        data_dir=arguments.data_dir.absolute(),
        ports=Ports(
            ingest=taken.claim(arguments.ingest_port, "--ingest-port"),
            admin=taken.claim(arguments.admin_port, "--admin-port"),
            delivery=taken.claim(arguments.delivery_port, "--delivery-port"),
            ingest_internal=taken.claim(arguments.ingest_internal_port, "--ingest-internal-port"),
            delivery_internal=taken.claim(arguments.delivery_internal_port, "--delivery-internal-port"),
            worker_internal=tuple(
                taken.claim(first + n if first else 0, "--worker-internal-port") for n in range(arguments.workers)
            ),
            # These two always listen on this machine only.
            redis=taken.claim(arguments.redis_port, "--redis-port", "127.0.0.1"),
            postgres=taken.claim(arguments.postgres_port, "--postgres-port", "127.0.0.1"),
        ),
    )


class _Taken:
    """Hands out each port once."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._by: dict[int, str] = {}

    def claim(self, port: int, option: str, host: str | None = None) -> int:
        host = host or self._host
        if port == 0:
            port = next(found for found in iter(lambda: free_port(host), None) if found not in self._by)
        elif port in self._by:
            raise SettingsError(f"{option} is {port}, which {self._by[port]} has already")
        else:
            _check_free(host, port, option)
        self._by[port] = option
        return port


def _check_free(host: str, port: int, option: str) -> None:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as exc:
        raise SettingsError(f"--host is {host!r}, which is no address: {exc.strerror}") from exc
    with socket.socket(family, kind, proto) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as exc:
            raise SettingsError(
                f"port {port} of {host} cannot be had ({exc.strerror}): choose another with {option} (0: a free one)"
            ) from exc


def _port(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) <= 65_535:
        return int(text)
    raise argparse.ArgumentTypeError(f"found {text!r}, allowed is 0 to 65535")


def _workers(text: str) -> int:
    if text.isascii() and text.isdigit() and 1 <= int(text) <= _MOST_WORKERS:
        return int(text)
    raise argparse.ArgumentTypeError(f"found {text!r}, allowed is 1 to {_MOST_WORKERS}")
