"""Calls of the admin API, with its refusals as errors of ours."""

from __future__ import annotations

import getpass
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from ticketwire.errors import Rejected, SettingsError, TicketwireError, Unavailable

TIMEOUT_S = 60.0
POLL_S = 0.3
DEFAULT_URL = "http://127.0.0.1:9000"
_DEV_FILE = Path(".ticketwire/dev.json")


@dataclass(frozen=True, slots=True)
class Access:
    """Where the API is and by what right we call it."""

    url: str
    key: str
    actor: str


def find_access(url: str | None, key: str | None, actor: str | None) -> Access:
    """Take what was given, else the environment, else what a `ticketwire dev` of this folder says of itself.

    TICKETWIRE_ADMIN_URL, TICKETWIRE_ADMIN_KEY or TICKETWIRE_ADMIN_KEY_FILE. Raises SettingsError without a key.
    """
    url = url or os.environ.get("TICKETWIRE_ADMIN_URL")
    key = key or os.environ.get("TICKETWIRE_ADMIN_KEY") or _from_file(os.environ.get("TICKETWIRE_ADMIN_KEY_FILE"))
    if key is None and _DEV_FILE.is_file():
        state = _read_dev(_DEV_FILE)
        # Its key goes to its own address only.
        if url in (None, state["urls"]["admin"]):
            url, key = state["urls"]["admin"], state["admin_key"]
    if not key:
        raise SettingsError("no key: set TICKETWIRE_ADMIN_KEY (or …_FILE) to what INGEST_ADMIN_KEY is, or give --key")
    return Access((url or DEFAULT_URL).rstrip("/"), key, actor or _user())


class AdminClient:
    """Raises Rejected for a refusal, Unavailable when nobody answers or a server behind the API is away."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def get(self, *path: str, **params: Any) -> dict[str, Any]:
        """GET /admin/<path>; parameters that are None are left out."""
        given = {name: str(value) for name, value in params.items() if value is not None}
        return self._call("GET", path, params=given)

    def post(self, *path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._call("POST", path, json=body)

    def delete(self, *path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._call("DELETE", path, json=body)

    def follow(self, job: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Wait for the end of *job*, calling *tell* with it now and then; return its last state."""
        while job["state"] == "running":
            tell(job)
            time.sleep(POLL_S)
            job = self.get("jobs", job["job_id"])
        tell(job)
        return job

    def _call(self, method: str, path: tuple[str, ...], **options: Any) -> dict[str, Any]:
        try:
            answer = self._http.request(method, "/admin/" + "/".join(quote(part, safe="") for part in path), **options)
        except httpx.HTTPError as exc:
            raise Unavailable(f"{self._http.base_url} does not answer: {type(exc).__name__} {exc}".rstrip()) from exc
        try:
            value = answer.json()
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise Rejected(
                "bad_request", f"{answer.url} answers {answer.status_code} and no JSON: is it the admin API?"
            )
        if answer.status_code >= 400:
            raise _error(answer.status_code, value)
        return value


@contextmanager
def connected(access: Access) -> Iterator[AdminClient]:
    """Open a client. Raises SettingsError for a URL that cannot be used."""
    if not re.match("https?://[^/]", access.url):
        raise SettingsError(f"the URL is {access.url!r}, allowed: http://host:port or https://…")
    headers = {"Authorization": f"Bearer {access.key}", "X-Actor": access.actor}
    try:
        http = httpx.Client(base_url=access.url, headers=headers, timeout=TIMEOUT_S)
    except (httpx.InvalidURL, UnicodeEncodeError) as exc:
        raise SettingsError(f"URL or key cannot be used: {exc}") from exc
    with http:
        yield AdminClient(http)


def _error(status: int, value: Mapping[str, Any]) -> TicketwireError:
    detail = str(value.get("error", f"status {status}"))
    return Unavailable(detail) if status >= 500 else Rejected(str(value.get("code", "bad_request")), detail)


def _from_file(path: str | None) -> str | None:
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"TICKETWIRE_ADMIN_KEY_FILE is {path!r}, which cannot be read") from exc


def _read_dev(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        state["urls"]["admin"], state["admin_key"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise SettingsError(f"{path} cannot be read: give --url and --key") from exc
    return state


def _user() -> str:
    """Who runs this, as far as the system knows, in the letters that a record takes."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = ""
    return re.sub(r"[^A-Za-z0-9._@-]", "_", name)[:64] or "admin"
