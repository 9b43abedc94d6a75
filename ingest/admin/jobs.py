"""Long admin work: started by a request, followed by anybody, ended with the process."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from ticketwire.bus.jobs import Jobs
from ticketwire.errors import Rejected, TicketwireError, Unavailable

log = logging.getLogger(__name__)

ANSWER_WITHIN_S = 2.0  # a job done by then is answered as a whole
SAVE_EVERY_S = 0.5
PATIENCE_S = 30.0  # how long one step waits for Redis or PostgreSQL to come back
MOST_SHOWN = 100  # letters told one by one

_JOB_ID = re.compile(r"[0-9a-f]{16}")
T = TypeVar("T")


class Interrupted(Exception):
    """The process stops: the job can be started again and goes on where it was."""


@dataclass(slots=True)
class Job:
    """What is told about one replay or purge."""

    kind: str  # "replay" or "purge"
    actor: str
    why: str
    asked: dict[str, Any]  # the request, as the record shows it
    dry_run: bool = False
    job_id: str = field(default_factory=lambda: secrets.token_hex(8))
    state: str = "running"  # then done, failed or interrupted; a reader may find it lost
    total: int | None = None  # letters to handle, once they are counted
    done: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    letters: list[dict[str, Any]] = field(default_factory=list)  # the first MOST_SHOWN
    error: dict[str, str] | None = None
    started_at_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    ended_at_ms: int | None = None
    failure: TicketwireError | None = None  # for whoever waits in this process

    def note(self, letter: str, outcome: str, new_id: str | None = None) -> None:
        """Say what became of one letter."""
        self.done += 1
        self.outcomes[outcome] += 1
        if len(self.letters) < MOST_SHOWN:
            more = {"new_id": new_id} if new_id is not None else {}
            self.letters.append({"id": letter, "outcome": outcome, **more})

    def to_json(self) -> dict[str, Any]:
        return {
            "job_id": self.job_id,
            "kind": self.kind,
            "state": self.state,
            "dry_run": self.dry_run,
            "total": self.total,
            "done": self.done,
            "outcomes": dict(self.outcomes),
            "letters": self.letters,
            "error": self.error,
            "actor": self.actor,
            "why": self.why,
            "asked": self.asked,
            "started_at_ms": self.started_at_ms,
            "ended_at_ms": self.ended_at_ms,
        }


class Runner:
    """Runs the jobs of this process; their state is in Redis for all. Use as a context manager."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    async def __aenter__(self) -> Runner:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Let each job finish the step in hand, then end it as interrupted."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def run(self, job: Job, work: Callable[[Job], Awaitable[None]]) -> bool:
        """Start *work* and wait a moment; True when it is done. Raises its TicketwireError if it failed by then."""
        await self._jobs.save(job.to_json())
        task = asyncio.create_task(self._run(job, work), name=f"job {job.job_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Not cancelled with the request: what was asked for goes on when the caller hangs up.
        await asyncio.wait({task}, timeout=ANSWER_WITHIN_S)
        if task.done() and job.failure is not None:
            raise job.failure
        return task.done()

    async def find(self, job_id: str) -> dict[str, Any]:
        """Return a job of any process. Raises Rejected `not_found`."""
        job = await self._jobs.load(job_id) if _JOB_ID.fullmatch(job_id) else None
        if job is None:
            raise Rejected("not_found", f"there is no job {job_id[:40]!r}; jobs are kept for a day")
        return job

    async def step(self, action: Callable[[], Awaitable[T]]) -> T:
        """Do one step of a job, waiting out an outage of up to PATIENCE_S. Raises Interrupted when stopping."""
        if self._stopping.is_set():
            raise Interrupted
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Unavailable),
            stop=stop_after_delay(PATIENCE_S),
            wait=wait_random_exponential(multiplier=0.1, max=2),
            sleep=self.pause,
            reraise=True,
        )

        async def attempt() -> T:  # tenacity awaits only what it can see to be a coroutine function
            return await action()

        result: T = await retrying(attempt)
        return result

    async def pause(self, seconds: float) -> None:
        """Wait. Raises Interrupted when stopping."""
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return
        raise Interrupted

    async def _run(self, job: Job, work: Callable[[Job], Awaitable[None]]) -> None:
        ended = asyncio.Event()
        telling = asyncio.create_task(self._tell(job, ended))
        try:
            await work(job)
            job.state = "done"
        except Interrupted:
            job.state = "interrupted"
        except TicketwireError as exc:
            job.state, job.failure = "failed", exc
            job.error = {"code": exc.code, "error": exc.detail}
        except Exception:  # a bug in here must not take the tier along that accepts messages
            log.exception("job failed", extra={"job": job.job_id})
            job.state, job.error = "failed", {"code": "internal", "error": "a fault of the service"}
        finally:
            ended.set()  # not cancelled: a save under way could overtake the last one
            await telling
        job.ended_at_ms = time.time_ns() // 1_000_000
        log.info("job ended", extra={"job": job.job_id, "kind": job.kind, "state": job.state, "letters": job.done})
        try:
            await self._jobs.save(job.to_json())
        except Unavailable as exc:
            log.warning("job's end not stored", extra={"job": job.job_id, "why": exc.detail})

    async def _tell(self, job: Job, ended: asyncio.Event) -> None:
        """Save progress for as long as the job runs."""
        while not ended.is_set():
            try:
                await asyncio.wait_for(ended.wait(), SAVE_EVERY_S)
            except TimeoutError:
                try:
                    await self._jobs.save(job.to_json())
                except Unavailable:
                    continue  # the job's own steps notice, and say so
