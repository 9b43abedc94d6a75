"""Everybody who is measured: how to start each, how the load generator talks to it, and why one is left out.

All get the same messages from the same generator at the same moments. How a message gets in differs, as it does in
life: an HTTP call for others; for ticketwire the worker's own call of confirm.lua, which writes the log and tells the
nodes.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench.delivery import build, confirming
from bench.delivery.build import Missing
from bench.machine import tree
from ticketwire.embedded.postgres_server import EmbeddedPostgres
from ticketwire.embedded.process import die_with_parent, free_port
from ticketwire.embedded.redis_server import EmbeddedRedis

START_SECONDS = 30.0
NCHAN = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")


@dataclass(frozen=True)
class Ground:
    """What the peers of a run share: a folder, and PostgreSQL for those who want it."""

    folder: Path
    postgres: EmbeddedPostgres


@dataclass(frozen=True)
class Started:
    """A running peer."""

    pids: dict[str, list[int]]  # by the name under which their CPU and memory are told: server, redis
    arguments: list[str]  # of the generator


Start = Callable[[Ground, Path], AbstractContextManager[Started]]


@dataclass(frozen=True)
class Peer:
    """Somebody to be measured."""

    name: str
    start: Start
    prepare: Callable[[], object] = field(default=lambda: None)  # builds what it needs, or raises Missing


@contextlib.contextmanager
def server(command: Sequence[str | Path], folder: Path, env: Mapping[str, str] | None = None) -> Iterator[int]:
    """Run a process for the length of the block; its output goes to a file there."""
    with open(folder / "output.log", "wb") as output:
        running = subprocess.Popen(
            [str(part) for part in command],
            env={**os.environ, **(env or {})},
            stdout=output,
            stderr=output,
            preexec_fn=die_with_parent(15),  # type: ignore[arg-type]
        )
    try:
        yield running.pid
    finally:
        running.terminate()
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def wait_for(port: int, folder: Path, path: str = "/", status: bytes = b"HTTP/1.1 ") -> None:
    """Wait until an HTTP call is answered so: a port may be open before the process is there that will serve it."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
            if connection.recv(4_096).startswith(status):
                return
        time.sleep(0.02)
    log = (folder / "output.log").read_text(errors="replace")[-500:]
    raise RuntimeError(f"nothing answers on port {port} after {START_SECONDS:g} s: {log}")


@contextlib.contextmanager
def floor(_ground: Ground, folder: Path) -> Iterator[Started]:
    port = free_port()
    with server([build.floor(), str(port)], folder) as pid:
        wait_for(port, folder)
        yield Started({"server": [pid]}, [f"-addr=127.0.0.1:{port}", "-path=/ws?room={room}"])


@contextlib.contextmanager
def nchan(_ground: Ground, folder: Path) -> Iterator[Started]:
    """nginx with one worker, as ticketwire's node is one process; the last 100 messages of a room are kept."""
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(
        f"""
        worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log warn;
        load_module {NCHAN};
        worker_rlimit_nofile 20000;
        events {{ worker_connections 18000; multi_accept on; }}
        http {{
            access_log off; tcp_nodelay on; keepalive_requests 100000000; nchan_shared_memory_size 512M;
            client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
            uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
            server {{
                listen 127.0.0.1:{port} backlog=4096;
                location = /pub {{
                    nchan_publisher; nchan_channel_id $arg_room;
                    nchan_message_buffer_length 100; nchan_message_timeout 5m;
                }}
                location = /ws {{
                    nchan_subscriber websocket; nchan_channel_id $arg_room;
                    nchan_subscriber_first_message newest; nchan_websocket_ping_interval 25s;
                }}
            }}
        }}
        """
    )
    command = [build.tool("nginx", ""), "-c", str(config), "-e", f"{folder}/start.log"]
    with server(command, folder) as pid:
        wait_for(port, folder)
        yield Started({"server": tree(pid)}, [f"-addr=127.0.0.1:{port}", "-path=/ws?room={room}"])


def need_nchan() -> None:
    get = "apt install nginx-light libnginx-mod-nchan"
    build.tool("nginx", get)
    if not NCHAN.exists():
        raise Missing(f"no {NCHAN}: {get}")


@contextlib.contextmanager
def socketio(_ground: Ground, folder: Path) -> Iterator[Started]:
    port = free_port()
    with EmbeddedRedis(folder / "redis") as redis:
        env = {
            "NODE_PATH": str(build.socketio()), "NODE_ENV": "production", "REDIS_URL": redis.url, "PORT": str(port),
        }  # fmt: skip
        with server([build.tool("node", ""), build.SOURCES / "socketio" / "server.js"], folder, env) as pid:
            wait_for(port, folder)
            yield Started(
                {"server": tree(pid), "redis": [redis.pid]},
                [f"-addr=127.0.0.1:{port}", "-path=/socket.io/?EIO=4&transport=websocket", "-protocol=socketio"],
            )


def need_socketio() -> None:
    build.tool("node", "apt install nodejs npm")
    build.socketio()


@contextlib.contextmanager
def centrifugo(_ground: Ground, folder: Path) -> Iterator[Started]:
    """With its Redis engine; the last 100 messages of a channel are kept."""
    port = free_port()
    with EmbeddedRedis(folder / "redis") as redis:
        settings = {
            "http_server": {"address": "127.0.0.1", "port": str(port)},
            "usage_stats": {"disabled": True},
            "log": {"level": "warn"},
            "engine": {"type": "redis", "redis": {"address": redis.url}},
            "http_api": {"key": "bench"},
            "client": {"allowed_origins": ["*"], "allow_anonymous_connect_without_token": True},
            "channel": {
                "without_namespace": {
                    "history_size": 100, "history_ttl": "300s", "force_recovery": True,
                    "allow_subscribe_for_client": True, "allow_subscribe_for_anonymous": True,
                }
            },
        }  # fmt: skip
        (folder / "config.json").write_text(json.dumps(settings))
        with server([os.environ["CENTRIFUGO_BIN"], "--config", folder / "config.json"], folder) as pid:
            wait_for(port, folder)
            yield Started(
                {"server": tree(pid), "redis": [redis.pid]},
                [
                    f"-addr=127.0.0.1:{port}", "-path=/connection/websocket", "-protocol=centrifugo",
                    "-publish-path=/api/publish", "-publish-header=X-API-Key: bench",
                    '-publish-body={"channel":"{room}","data":{message}}',
                ],
            )  # fmt: skip


def need_centrifugo() -> None:
    if not os.environ.get("CENTRIFUGO_BIN"):
        raise Missing("CENTRIFUGO_BIN is not set: the path of a Centrifugo 6 binary, from its releases")


@contextlib.contextmanager
def ticketwire(
    ground: Ground, folder: Path, *, v1: bool, env: Mapping[str, str] | None = None, client: Sequence[str] = ()
) -> Iterator[Started]:
    """One node with its defaults: history, bounds, heartbeats, canary, position checks, acknowledgements."""
    port, internal = free_port(), free_port()
    with EmbeddedRedis(folder / "redis") as redis:
        shared = {
            "TICKETWIRE_REDIS_URL": redis.url, "TICKETWIRE_DATABASE_URL": ground.postgres.url,
            "TICKETWIRE_AUTH": "off",
        }  # fmt: skip
        confirm = confirming.write(folder / "confirm.json", redis.url, ground.postgres.url)
        settings = {
            "DELIVERY_HOST": "127.0.0.1", "DELIVERY_PORT": str(port),
            "DELIVERY_INTERNAL_HOST": "127.0.0.1", "DELIVERY_INTERNAL_PORT": str(internal),
        }  # fmt: skip
        with server([sys.executable, "-m", "delivery"], folder, {**shared, **settings, **(env or {})}) as pid:
            wait_for(internal, folder, "/readyz", b"HTTP/1.1 200 ")
            arguments = [f"-addr=127.0.0.1:{port}", f"-publish-addr=127.0.0.1:{redis.port}", f"-confirm={confirm}"]
            arguments += ["-path=/", "-protocol=v1"] if v1 else ["-path=/ws/{room}{since}"]
            yield Started({"server": tree(pid), "redis": [redis.pid]}, [*arguments, *client])


PEERS = {
    peer.name: peer
    for peer in (
        Peer("floor-send", floor, build.floor),
        Peer("nchan", nchan, need_nchan),
        Peer("socketio-redis", socketio, need_socketio),
        Peer("centrifugo-redis", centrifugo, need_centrifugo),
        Peer("ticketwire", partial(ticketwire, v1=False)),
        Peer("ticketwire-v1", partial(ticketwire, v1=True)),
        Peer("ticketwire-v1-uncoalesced", partial(ticketwire, v1=True, env={"DELIVERY_COALESCE_MS": "0"})),
        Peer(
            "ticketwire-v1-deflate",
            partial(ticketwire, v1=True, env={"DELIVERY_DEFLATE": "true"}, client=["-deflate"]),
        ),
    )
}
