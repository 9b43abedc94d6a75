"""Send messages by HTTP: each exactly once, in the order of the calls for a ticket, through any outage."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import defaultdict
from dataclasses import dataclass

import httpx

from schemas.problems import PROBLEMS
from ticketwire.errors import Rejected

BACKOFF_BASE_S = 0.2
BACKOFF_CAP_S = 20.0
_RETRY = frozenset((408, 425, 429, 500, 502, 503, 504))
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
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=10.0)
        self._user = user
        self._rng = rng or random.Random()
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.outbox: list[Unsent] = []  # what no server has accepted yet, oldest first

    async def send(self, ticket: str, message: str, client_message_id: str | None = None) -> str:
        """Return the message id once the message is accepted, however long that takes.

        Raises Rejected when it never will be. A call that is cancelled may have been accepted: send it again with
        the same *client_message_id* and it is still one message.
        """
        unsent = Unsent(ticket, message, client_message_id or secrets.token_hex(16))
        self.outbox.append(unsent)
        try:
            async with self._turns[ticket]:
                return await self._deliver(unsent)
        finally:
            self.outbox.remove(unsent)
            if not any(other.ticket_id == ticket for other in self.outbox):
                self._turns.pop(ticket, None)

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
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code == 200:
                return str(answer.json()["message_id"])
            if answer is not None and answer.status_code not in _RETRY:
                raise Rejected(_BY_STATUS.get(answer.status_code, "bad_request"), _sentence(answer))
            if answer is not None:
                after = answer.headers.get("Retry-After", "")
                wait += float(after) if after.isdecimal() else 0.0
            await asyncio.sleep(wait)
            attempt += 1

    async def close(self) -> None:
        await self._http.aclose()


def _sentence(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {answer.status_code}"
