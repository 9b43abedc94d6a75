"""Send messages by HTTP: each exactly once, in the order of the calls for a ticket, through any outage."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections import defaultdict
from dataclasses import dataclass

import httpx

from schemas.problems import PROBLEMS
from ticketwire.errors import Rejected, Unavailable

log = logging.getLogger(__name__)

TRY_S = 10.0  # for one answer: longer than ingest tries a message by itself
BACKOFF_BASE_S = 0.2
BACKOFF_CAP_S = 20.0
RETRY_STATUS = frozenset((408, 425, 429, 500, 502, 503, 504))
_BY_STATUS = {problem.status: problem.code for problem in reversed(PROBLEMS.values()) if not problem.temporary}


def backoff(attempt: int, rng: random.Random) -> float:
    """Seconds to wait: full jitter, so that clients that lost the same server do not come back in one wave."""
    return rng.uniform(0, min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2 ** min(attempt, 16)))


@dataclass(frozen=True, slots=True)
class Unsent:
    """A message in the outbox."""

    ticket_id: str
    message: str
    client_message_id: str


class Sender:
    """The way to the ingest tier. *token*, if any, is sent as a bearer token."""

    def __init__(self, url: str, user: str, *, token: str | None = None, rng: random.Random | None = None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=TRY_S)
        self._user = user
        self._rng = rng or random.Random()
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._work: set[asyncio.Future[str]] = set()
        self._closed = False
        self._waiting_since: float | None = None  # monotonic seconds; the server takes nothing
        self.outbox: list[Unsent] = []  # what no server has accepted yet, oldest first

    async def send(self, ticket: str, message: str, client_message_id: str | None = None) -> str:
        """Return the message id once the message is accepted, however long that takes.

        Raises Rejected when it never will be, and Unavailable when `close` came first. After that, and after a
        cancellation, it may have been accepted all the same: with the same *client_message_id* it stays one message.
        """
        if self._closed:
            raise Unavailable("the client is closed")
        unsent = Unsent(ticket, message, client_message_id or secrets.token_hex(16))
        self.outbox.append(unsent)
        work = asyncio.ensure_future(self._in_turn(unsent))
        self._work.add(work)
        try:
            return await work
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._closed or (task is not None and task.cancelling()):
                raise
            key = unsent.client_message_id
            raise Unavailable(f"the client was closed before a server accepted the message {key}") from None
        finally:
            self._work.discard(work)
            self.outbox.remove(unsent)
            if not any(other.ticket_id == ticket for other in self.outbox):
                self._turns.pop(ticket, None)

    async def _in_turn(self, unsent: Unsent) -> str:
        async with self._turns[unsent.ticket_id]:
            return await self._deliver(unsent)

    async def _deliver(self, unsent: Unsent) -> str:
        body = {
            "ticket_id": unsent.ticket_id,
            "sender_id": self._user,
            "message": unsent.message,
            "client_message_id": unsent.client_message_id,
        }
        attempt = 0
        while True:
            wait = backoff(attempt, self._rng)
            try:
                answer = await self._http.post("/chat/send", json=body)
            except httpx.TransportError as exc:
                self._wait_begins(f"{type(exc).__name__}: {exc}")
            else:
                if answer.status_code == 200 and (found := _field(answer, "message_id")):
                    self._wait_ends()
                    return found
                if answer.status_code != 200 and answer.status_code not in RETRY_STATUS:
                    sentence = _field(answer, "error") or f"the server answered {answer.status_code}"
                    raise Rejected(_BY_STATUS.get(answer.status_code, "bad_request"), sentence)
                after = answer.headers.get("Retry-After", "")
                wait += float(after) if after.isdecimal() else 0.0
                self._wait_begins(f"the server answered {answer.status_code}")
            await asyncio.sleep(wait)
            attempt += 1

    def _wait_begins(self, reason: str) -> None:
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
            log.warning("messages wait", extra={"messages": len(self.outbox), "reason": reason})

    def _wait_ends(self) -> None:
        if self._waiting_since is not None:
            seconds = time.monotonic() - self._waiting_since
            self._waiting_since = None
            log.info("messages are accepted again", extra={"seconds": round(seconds, 1)})

    async def close(self) -> list[Unsent]:
        """Give up what is not accepted yet, and return it; its calls of `send` raise Unavailable."""
        self._closed = True
        unsent = list(self.outbox)
        if unsent:
            log.warning("closed with unsent messages", extra={"messages": len(unsent)})
        for work in self._work:
            work.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        await self._http.aclose()
        return unsent


def _field(answer: httpx.Response, name: str) -> str:
    """Return a field of a JSON answer; nothing when it is not one of ours (a proxy's page, say)."""
    try:
        return str(answer.json()[name])
    except (ValueError, KeyError, TypeError):
        return ""
