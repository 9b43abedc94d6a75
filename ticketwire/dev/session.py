"""One run of `ticketwire dev`: start everything in order, keep it running, stop everything."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from ticketwire.archive.migrate import upgrade_async
from ticketwire.dev.console import Console
from ticketwire.dev.options import INGEST_PORT, DevOptions
from ticketwire.dev.tier import RESTART_SECONDS, TierProcess
from ticketwire.embedded.postgres_server import EmbeddedPostgres
from ticketwire.embedded.process import EmbeddedServer
from ticketwire.embedded.redis_server import EmbeddedRedis
from ticketwire.errors import SettingsError, Unavailable
from ticketwire.lifecycle import EXIT_SETTINGS
from ticketwire.settings import SharedSettings, load

READY_SECONDS = 60.0
_POLL_SECONDS = 0.05
_DRAIN_SECONDS = "5"  # nobody waits longer for a Ctrl-C; TICKETWIRE_DRAIN_SECONDS changes it
_KILL_AFTER_SECONDS = 3.0  # past the tiers' own deadline


def run_dev(options: DevOptions) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit code; raises TicketwireError when the start fails."""
    return asyncio.run(Session(options, Console()).run())


class Session:
    """Everything that one `ticketwire dev` started."""

    def __init__(self, options: DevOptions, console: Console) -> None:
        self._options = options
        self._console = console
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()  # a second signal: kill the tiers instead of waiting
        self._ready = False
        self._servers: list[EmbeddedServer] = []
        self._tiers: list[TierProcess] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._tier_tasks: list[asyncio.Task[None]] = []
        self._redis_url = os.environ.get("TICKETWIRE_REDIS_URL", "")
        self._database_url = os.environ.get("TICKETWIRE_DATABASE_URL", "")
        self._shared = load(
            SharedSettings,
            redis_url=self._redis_url or "redis://127.0.0.1",
            database_url=self._database_url or "postgresql://127.0.0.1",
            auth=os.environ.get("TICKETWIRE_AUTH") or "off",
            drain_seconds=os.environ.get("TICKETWIRE_DRAIN_SECONDS") or _DRAIN_SECONDS,
        )
        # A new one for each run, unless the user has one; `ticketwire admin` finds it in dev.json.
        self._admin_key = os.environ.get("INGEST_ADMIN_KEY") or secrets.token_urlsafe(24)
        self._file = options.data_dir / "dev.json"

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        with _locked(self._options.data_dir):
            self._file.unlink(missing_ok=True)  # of a run that was killed
            stopping = asyncio.create_task(self._stopping.wait())
            starting = asyncio.create_task(self._start())
            try:
                await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not self._stopping.is_set():
                    starting.result()  # raises what went wrong
                    self._announce()
                    done, _ = await asyncio.wait({stopping, *self._running}, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
            finally:
                self._stopping.set()
                starting.cancel()
                stopping.cancel()
                await asyncio.wait({starting})
                await self._stop_everything()
        return 0

    def _signalled(self) -> None:
        if self._stopping.is_set():
            self._hurry.set()
        else:
            self._console.say("stopping ...")
            self._stopping.set()

    @property
    def _running(self) -> list[asyncio.Task[None]]:
        return self._keepers + self._tier_tasks

    # -- starting

    async def _start(self) -> None:
        """Servers, then migrations, then the tiers; returns when all are ready."""
        if not self._redis_url:
            redis = EmbeddedRedis(self._options.data_dir / "redis", port=self._options.ports.redis)
            self._servers.append(redis)
        if not self._database_url:
            postgres = EmbeddedPostgres(self._options.data_dir / "postgres", port=self._options.ports.postgres)
            self._servers.append(postgres)
        await asyncio.gather(*(asyncio.to_thread(server.prepare) for server in self._servers))
        for server in self._servers:
            server.launch()  # here, in the main thread: they die with it
            self._console.note(server.name, f"listens on 127.0.0.1:{server.port}, logs to {server.log}")
        await asyncio.gather(*(asyncio.to_thread(server.wait_ready) for server in self._servers))
        for server in self._servers:
            self._keepers.append(asyncio.create_task(self._keep(server)))
            if isinstance(server, EmbeddedRedis):
                self._redis_url = server.url
            else:
                self._database_url = server.url
        await upgrade_async(self._database_url)
        self._make_tiers()
        for tier in self._tiers:
            self._tier_tasks.append(asyncio.create_task(tier.run(self._stopping)))
        await self._until_ready()
        self._ready = True
        self._record()

    def _make_tiers(self) -> None:
        host, ports = self._options.host, self._options.ports
        internal = {"ingest": ports.ingest_internal, "delivery": ports.delivery_internal}
        # What the user set on purpose stays; what makes this the development set-up does not.
        common = {
            "TICKETWIRE_AUTH": "off",
            "TICKETWIRE_ALLOW_EVERYTHING_FEED": "true",
            # The chat page comes from delivery's port and posts to ingest's: another origin to a browser.
            "INGEST_CORS_ORIGINS": json.dumps([f"http://{name}:{ports.delivery}" for name in self._names]),
            # Whoever develops a page serves it from a port of its own, such as localhost:3000.
            "DELIVERY_ORIGINS": "*",
            # Left empty, the page posts to port 8000 of whatever name it was opened by.
            "DELIVERY_INGEST_URL": "" if ports.ingest == INGEST_PORT else f"http://{self._names[0]}:{ports.ingest}",
            **os.environ,
            "TICKETWIRE_DRAIN_SECONDS": str(self._shared.drain_seconds),
            "TICKETWIRE_REDIS_URL": self._redis_url,
            "TICKETWIRE_DATABASE_URL": self._database_url,
            "PYTHONUNBUFFERED": "1",
        }
        admin = {"INGEST_ADMIN_HOST": host, "INGEST_ADMIN_PORT": ports.admin, "INGEST_ADMIN_KEY": self._admin_key}
        for tier, public in (
            ("ingest", {"INGEST_PORT": ports.ingest, **admin}),
            ("delivery", {"DELIVERY_PORT": ports.delivery}),
        ):
            own = {f"{tier}_HOST": host, f"{tier}_INTERNAL_HOST": host, f"{tier}_INTERNAL_PORT": internal[tier]}
            self._add_tier(tier, tier, tier, common, {**own, **public})
        for n, port in enumerate(ports.worker_internal, start=1):
            own = {"WORKER_NAME": f"worker-{n}", "WORKER_INTERNAL_HOST": host, "WORKER_INTERNAL_PORT": port}
            self._add_tier("worker", f"worker-{n}", "workers", common, own)

    def _add_tier(self, tier: str, name: str, module: str, common: dict[str, str], own: dict[str, Any]) -> None:
        env = {**common, **{key.upper(): str(value) for key, value in own.items()}}
        self._tiers.append(TierProcess(tier, name, module, env, self._console, self._record))

    async def _until_ready(self) -> None:
        """Return when every tier's /readyz says so. Raises Unavailable naming what is missing."""
        ports = self._options.ports
        waiting = dict(
            zip(
                (tier.name for tier in self._tiers),
                (ports.ingest_internal, ports.delivery_internal, *ports.worker_internal),
                strict=True,
            )
        )
        reasons = dict.fromkeys(waiting, "does not answer")
        try:
            async with asyncio.timeout(READY_SECONDS), httpx.AsyncClient(timeout=5, trust_env=False) as client:
                while waiting:
                    for name, port in list(waiting.items()):
                        ready, reasons[name] = await _readiness(client, f"http://{self._address}:{port}/readyz")
                        if ready:
                            del waiting[name]
                    for tier in self._tiers:
                        if tier.last_exit == EXIT_SETTINGS:
                            raise SettingsError(f"{tier.name} refuses its settings: see its line above")
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            missing = "; ".join(f"{name}: {reasons[name]}" for name in waiting)
            raise Unavailable(f"not ready within {READY_SECONDS:g} s: {missing}") from None

    async def _keep(self, server: EmbeddedServer) -> None:
        """Start an embedded server again when it dies."""
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            if server.alive:
                continue
            self._record()
            self._console.note(server.name, "ended; starting again in 1 s")
            await asyncio.sleep(RESTART_SECONDS)
            try:
                server.launch()
                await asyncio.to_thread(server.wait_ready)
            except Unavailable as exc:
                self._console.note(server.name, exc.detail)
            else:
                self._console.note(server.name, "is back")
                self._record()

    # -- telling

    @property
    def _address(self) -> str:
        """Where clients on this machine reach the tiers."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._options.host, self._options.host)
        return f"[{host}]" if ":" in host else host

    @property
    def _names(self) -> list[str]:
        """The host part of the URLs that a browser on this machine may show; the best known first."""
        return ["localhost", "127.0.0.1"] if self._address == "127.0.0.1" else [self._address]

    def _record(self) -> None:
        """Write dev.json anew, whole or not at all; only once all are ready, because scripts wait for the file."""
        if not self._ready or self._stopping.is_set():
            return
        ports = self._options.ports
        pids: dict[str, list[int]] = {"ingest": [], "worker": [], "delivery": [], "redis": [], "postgres": []}
        for tier in self._tiers:
            if tier.pid is not None:
                pids[tier.tier].append(tier.pid)
        for server in self._servers:
            if server.alive:
                pids[server.name].append(server.pid)
        state = {
            "pid": os.getpid(),
            "urls": {
                "chat": f"http://{self._address}:{ports.delivery}/",
                "ingest": f"http://{self._address}:{ports.ingest}",
                "admin": f"http://{self._address}:{ports.admin}",
                "delivery": f"http://{self._address}:{ports.delivery}",
                "websocket": f"ws://{self._address}:{ports.delivery}",
            },
            "ports": {
                "ingest": ports.ingest,
                "admin": ports.admin,
                "delivery": ports.delivery,
                "ingest_internal": ports.ingest_internal,
                "delivery_internal": ports.delivery_internal,
                "worker_internal": list(ports.worker_internal),
                **{server.name: server.port for server in self._servers},
            },
            "admin_key": self._admin_key,
            "redis_url": self._redis_url,
            "database_url": self._database_url,
            "pids": pids,
        }
        beside = self._file.with_suffix(".tmp")
        beside.touch(mode=0o600)  # the admin key and the database's password are in it
        beside.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        beside.replace(self._file)

    def _announce(self) -> None:
        ports = self._options.ports
        at = self._names[0]
        self._console.say(f"""
Ticketwire is ready. Ctrl-C stops everything.

  chat page   http://{at}:{ports.delivery}/
  send        http://{at}:{ports.ingest}/chat/send
  receive     ws://{at}:{ports.delivery}/?ticket_id=12345
  Redis       {self._redis_url}
  admin       ticketwire admin partitions
  all of it   {self._file}

  curl -X POST http://{at}:{ports.ingest}/chat/send -d ticket_id=12345 -d sender_id=1 -d "message=Hello"
  python -m websockets "ws://{at}:{ports.delivery}/?ticket_id=12345&since=0-0"
  redis-cli -u {self._redis_url} XREAD COUNT 10 STREAMS chat:12345 0
""")

    # -- stopping

    async def _stop_everything(self) -> None:
        """Leave nothing running: the tiers drain, then what they talk to ends."""
        for tier in self._tiers:
            tier.signal(signal.SIGTERM)
        if self._tier_tasks:
            hurry = asyncio.create_task(self._hurry.wait())
            deadline = asyncio.get_running_loop().time() + self._shared.drain_seconds + _KILL_AFTER_SECONDS
            left = set(self._tier_tasks)
            while left and not hurry.done() and (seconds := deadline - asyncio.get_running_loop().time()) > 0:
                await asyncio.wait({*left, hurry}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                left = {task for task in left if not task.done()}
            hurry.cancel()
            for tier in self._tiers:
                if tier.pid is not None:
                    self._console.note(tier.name, "killed")
                    tier.signal(signal.SIGKILL)
            await asyncio.gather(*self._tier_tasks, return_exceptions=True)
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*(asyncio.to_thread(server.stop) for server in self._servers))
        self._file.unlink(missing_ok=True)


async def _readiness(client: httpx.AsyncClient, url: str) -> tuple[bool, str]:
    """Ask one tier; the second value says what it waits for."""
    try:
        report: dict[str, Any] = (await client.get(url)).json()
    except (httpx.HTTPError, ValueError):
        return False, "does not answer"
    failed = [f"{check['name']} ({check['reason']})" for check in report["checks"] if not check["ok"]]
    return bool(report["ready"]), ", ".join(failed)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second `ticketwire dev` out of *folder*; the kernel frees the lock however we end."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "dev.lock").open("a+", encoding="utf-8")
    except OSError as exc:
        raise SettingsError(f"--data-dir is {str(folder)!r}, which cannot be used: {exc.strerror}") from exc
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise SettingsError(
                f"another `ticketwire dev` (process {owner}) uses {folder}: choose another with --data-dir"
            ) from exc
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
