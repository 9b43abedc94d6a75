"""Ports of `ticketwire dev`: chosen, checked and named before anything starts."""

from __future__ import annotations

import argparse
import socket

import pytest

from ticketwire.dev.options import DevOptions, add_arguments, options_from
from ticketwire.errors import SettingsError

ALL_FREE = [
    word
    for name in ("ingest", "admin", "delivery", "ingest-internal", "delivery-internal", "worker-internal")
    for word in (f"--{name}-port", "0")
]


def parsed(*words: str) -> DevOptions:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return options_from(parser.parse_args([*ALL_FREE, *words]))


def test_zero_means_a_free_port_each() -> None:
    """Two runs can stand side by side."""
    ports = parsed("--workers", "3").ports
    every = [ports.ingest, ports.admin, ports.delivery, ports.ingest_internal, ports.delivery_internal]
    every += [*ports.worker_internal, ports.redis, ports.postgres]
    assert len(ports.worker_internal) == 3
    assert len(set(every)) == 10
    assert 0 not in every


def test_only_this_machine_by_default() -> None:
    """There is no authentication in development."""
    assert parsed().host == "127.0.0.1"


def test_workers_get_the_ports_that_follow() -> None:
    """9103, 9104 and so on."""
    first = parsed().ports.ingest
    assert parsed("--worker-internal-port", str(first), "--workers", "2").ports.worker_internal[0] == first


def test_a_taken_port_is_named_with_its_option() -> None:
    """One line, before anything was started."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SettingsError) as caught:
            parsed("--delivery-port", str(port))
    assert caught.value.detail == (
        f"port {port} of 127.0.0.1 cannot be had (Address already in use): "
        "choose another with --delivery-port (0: a free one)"
    )


def test_one_port_cannot_be_given_twice() -> None:
    """The second tier would die again and again."""
    port = str(parsed().ports.ingest)
    with pytest.raises(SettingsError, match=f"--delivery-port is {port}, which --ingest-port has already"):
        parsed("--ingest-port", port, "--delivery-port", port)


@pytest.mark.parametrize("words", [("--ingest-port", "65536"), ("--ingest-port", "-1"), ("--workers", "0")])
def test_impossible_numbers_are_refused(words: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """With what was found and what is allowed."""
    with pytest.raises(SystemExit) as caught:
        parsed(f"{words[0]}={words[1]}")
    assert caught.value.code == 2
    assert f"found '{words[1]}', allowed is" in capsys.readouterr().err
