"""Many waiting requests, one script call.

While one call is under way the next requests gather for the following one. One call at a time per lane: all
partitions of a single Redis share a lane; on Redis Cluster, where a call may name only one slot, and under
durability `fsync`, where a call lasts as long as the disk, each partition has its own. So a ticket's messages are
stored in the order in which they were submitted.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from ingest import metrics
from ticketwire.bus.accept import Offer
from ticketwire.errors import TicketwireError, Unavailable

Accept = Callable[[str, Sequence[Offer]], Awaitable[list[str | TicketwireError]]]

# Full jitter between 0 and 20, 40, 80 … ms, at most half a second: most failovers end within seconds, and
# a whole fleet of ingest nodes asks at the same time.
_BACKOFF = wait_random_exponential(multiplier=0.02, max=0.5)
_RETRY_IS_SAFE = "the same idempotency key makes another try safe"


class _Member:
    """One message waiting for its id."""

    __slots__ = ("deadline", "future", "offer", "size")

    def __init__(self, offer: Offer, size: int, future: asyncio.Future[str], deadline: float) -> None:
        self.offer = offer
        self.size = size
        self.future = future
        self.deadline = deadline


class _Lane:
    """Members in the order of arrival, which is the order of their deadlines too."""

    __slots__ = ("in_flight", "waiting", "wake")

    def __init__(self) -> None:
        self.waiting: deque[_Member] = deque()
        self.in_flight: list[_Member] = []
        self.wake = asyncio.Event()


class GroupCommit:
    """Use as an async context manager; `submit` may then be called from any task of the same loop."""

    def __init__(
        self,
        accept: Accept,
        *,
        lanes: int,
        deadline_s: float,
        group_messages: int = 128,
        group_bytes: int = 1_048_576,
        max_waiting: int = 10_000,
        max_waiting_bytes: int = 67_108_864,
    ) -> None:
        """*accept* is `Acceptor.accept`. Partition p uses lane p % *lanes*; *deadline_s* runs from `submit`."""
        self._accept = accept
        self._lanes = [_Lane() for _ in range(lanes)]
        self._deadline_s = deadline_s
        self._group_messages = group_messages
        self._group_bytes = group_bytes
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting = 0
        self._waiting_bytes = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._tokens = map("{}{:x}".format, itertools.repeat(secrets.token_hex(8)), itertools.count())
        self._last_trouble = ""

    async def __aenter__(self) -> GroupCommit:
        self._loop = asyncio.get_running_loop()
        self._tasks = [self._loop.create_task(self._run(lane)) for lane in self._lanes]
        metrics.WAITING.set_function(lambda: self._waiting)
        return self

    async def __aexit__(self, *_: object) -> None:
        """End at once. Whoever still waits gets Unavailable: drain the requests first."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        for lane in self._lanes:
            for member in (*lane.in_flight, *lane.waiting):
                _fail(member, Unavailable(f"this node is stopping; {_RETRY_IS_SAFE}", code="draining"))

    def submit(self, offer: Offer, size: int) -> asyncio.Future[str]:
        """Queue a message of about *size* bytes; the future becomes its message id.

        It fails with Rejected (idempotency conflict) or Unavailable, the latter at the deadline at the latest.
        Cancelling it disturbs nobody: the message is left out if its call has not begun.
        Raises Unavailable at once when too many wait already.
        """
        if self._waiting >= self._max_waiting or self._waiting_bytes + size > self._max_waiting_bytes:
            raise Unavailable(
                f"{self._waiting:,} messages of {self._waiting_bytes:,} bytes wait for Redis here, "
                f"{self._max_waiting:,} of {self._max_waiting_bytes:,} may",
                code="node_full",
            )
        member = _Member(offer, size, self._loop.create_future(), self._loop.time() + self._deadline_s)
        lane = self._lanes[offer.partition % len(self._lanes)]
        lane.waiting.append(member)
        self._waiting += 1
        self._waiting_bytes += size
        lane.wake.set()
        if self._timer is None:
            self._timer = self._loop.call_at(member.deadline, self._expire)
        return member.future

    async def _run(self, lane: _Lane) -> None:
        while True:
            await lane.wake.wait()
            group = lane.in_flight = self._gather(lane)
            if group:
                await self._commit(group)
                lane.in_flight = []
            if not lane.waiting:
                lane.wake.clear()

    def _gather(self, lane: _Lane) -> list[_Member]:
        if len(lane.waiting) == self._waiting <= self._group_messages and self._waiting_bytes <= self._group_bytes:
            group = [member for member in lane.waiting if not member.future.done()]  # all of them: the usual case
            lane.waiting.clear()
            self._waiting = self._waiting_bytes = 0
            return group
        group = []
        size = 0
        while lane.waiting and len(group) < self._group_messages:
            member = lane.waiting[0]
            if not member.future.done():  # neither cancelled nor expired
                if group and size + member.size > self._group_bytes:
                    break
                size += member.size
                group.append(member)
            self._leave(lane)
        return group

    def _leave(self, lane: _Lane) -> None:
        member = lane.waiting.popleft()
        self._waiting -= 1
        self._waiting_bytes -= member.size

    async def _commit(self, group: list[_Member]) -> None:
        """Give every member its answer, whatever happens; retry as long as anyone's deadline lasts."""
        metrics.GROUP.observe(len(group))
        offers = [member.offer for member in group]
        token = next(self._tokens)
        try:
            async with asyncio.timeout_at(group[-1].deadline):
                try:
                    answers = await self._accept(token, offers)
                except Unavailable as exc:
                    if not _passes(exc):
                        raise
                    answers = await self._retry(exc, token, offers)
        except TimeoutError:
            self._expire_members(group, in_flight=True)
        except TicketwireError as exc:
            for member in group:
                _fail(member, exc)
        except Exception as exc:  # a bug: each request answers 500, and the next group gets its chance
            for member in group:
                if not member.future.done():
                    failure = RuntimeError("the group commit failed")
                    failure.__cause__ = exc
                    member.future.set_exception(failure)
        else:
            for member, answer in zip(group, answers, strict=True):
                if isinstance(answer, str):
                    if not member.future.done():
                        member.future.set_result(answer)
                else:
                    _fail(member, answer)

    async def _retry(self, first: Unavailable, token: str, offers: list[Offer]) -> list[str | TicketwireError]:
        """Try again under the same batch key, so that nothing doubles, until it works or the caller's timeout."""
        self._last_trouble = first.detail

        def note(state: RetryCallState) -> None:
            if state.outcome is not None and isinstance(exc := state.outcome.exception(), Unavailable):
                self._last_trouble = exc.detail

        async def again() -> list[str | TicketwireError]:
            metrics.RETRIES.inc()
            return await self._accept(token, offers)

        await asyncio.sleep(random.uniform(0, _BACKOFF.multiplier))  # the first try was the caller's
        return await AsyncRetrying(retry=retry_if_exception(_passes), wait=_BACKOFF, after=note, reraise=True)(again)

    def _expire(self) -> None:
        """Answer everyone whose deadline has passed, and look again at the next one's."""
        now = self._loop.time()
        following = []
        for lane in self._lanes:
            self._expire_members([m for m in lane.in_flight if m.deadline <= now], in_flight=True)
            while lane.waiting and (lane.waiting[0].deadline <= now or lane.waiting[0].future.done()):
                self._expire_members([lane.waiting[0]], in_flight=False)
                self._leave(lane)
            following += [m.deadline for m in lane.in_flight if not m.future.done()][:1]
            following += [m.deadline for m in itertools.islice(lane.waiting, 1)]
        self._timer = self._loop.call_at(min(following), self._expire) if following else None

    def _expire_members(self, members: list[_Member], *, in_flight: bool) -> None:
        why = self._last_trouble or "Redis: no answer"
        stored = "the message may be stored" if in_flight else "the message was not stored"
        for member in members:
            detail = f"not accepted within {self._deadline_s * 1000:,.0f} ms ({why}); {stored}, {_RETRY_IS_SAFE}"
            _fail(member, Unavailable(detail))


def _passes(exc: BaseException) -> bool:
    # A wait for durability that failed has lasted long enough already, and its sender must hear of it.
    return isinstance(exc, Unavailable) and exc.code != "not_durable"


def _fail(member: _Member, error: TicketwireError) -> None:
    """Each future gets an exception of its own: raising a shared one would pile up tracebacks in it."""
    if member.future.done():
        return
    if isinstance(error, Unavailable):
        member.future.set_exception(Unavailable(error.detail, error.code, error.retry_after_s))
    else:
        member.future.set_exception(type(error)(error.code, error.detail))
