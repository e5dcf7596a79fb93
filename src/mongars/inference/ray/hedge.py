"""One request at two endpoints: the first of them to begin answers, the other one is left.

Each attempt is entered in a task of its own, so that either can be cancelled, and is left by whoever
reads its answer. What is entered hangs on the attempt's own stack from the first moment: however
the race ends, by an answer, two failures or a caller who leaves, every connection is closed.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongars.core.errors import CallerError
from mongars.inference.events import Hedged, split_label
from mongars.inference.provider import ProviderStream
from mongars.inference.retry.failures import AttemptError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from mongars.core.clock import Clock
    from mongars.core.generation import GenerationRequest
    from mongars.core.observe import Observer
    from mongars.inference.endpoints.pool import EndpointPool
    from mongars.inference.endpoints.rotation import Rotation
    from mongars.inference.endpoints.state import EndpointLease
    from mongars.inference.request_queue import RequestQueue
    from mongars.inference.retry.hedging import Hedging

    Attempt = Callable[[EndpointLease], AbstractAsyncContextManager[ProviderStream]]
    Outcome = ProviderStream | AttemptError | CallerError


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgeContext:
    """What all hedges share."""

    hedging: Hedging
    pool: EndpointPool
    queue: RequestQueue
    clock: Clock
    observer: Observer


class _HedgedAttempt:
    """One of the two attempts."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self.stack = AsyncExitStack()
        self.lease: EndpointLease | None = None
        self.outcome: Outcome | None = None

    async def start(self, lease: EndpointLease) -> None:
        self.lease = lease
        try:
            self.outcome = await self.stack.enter_async_context(self._attempt(lease))
        except (AttemptError, CallerError) as failure:
            self.outcome = failure

    @property
    def started(self) -> bool:
        """Whether its answer has."""
        return isinstance(self.outcome, ProviderStream)

    @property
    def rejected(self) -> bool:
        """Whether it found a mistake of the caller's."""
        return isinstance(self.outcome, CallerError)


class RayHedge:
    """A first attempt and, once that is late, a second one beside it."""

    def __init__(
        self,
        context: HedgeContext,
        request: GenerationRequest,
        *,
        rotation: Rotation,
        attempt: Attempt,
    ) -> None:
        self._context = context
        self._request = request
        self._rotation = rotation
        self._first = _HedgedAttempt(attempt)
        self._second = _HedgedAttempt(attempt)

    @asynccontextmanager
    async def open(self, lease: EndpointLease, *, delay: float) -> AsyncIterator[ProviderStream]:
        """The answer of whoever begins first. Raises what the later of two failures was."""
        async with self._first.stack, self._second.stack:
            winner = self._first
            try:
                winner = await self._race(lease, delay)
            finally:
                self._report(won=winner is self._second, delay=delay)
            loser = self._first if winner is self._second else self._second
            await loser.stack.aclose()  # both may have begun in the same moment
            if isinstance(winner.outcome, ProviderStream):
                yield winner.outcome
            elif winner.outcome is not None:
                raise winner.outcome

    async def _race(self, lease: EndpointLease, delay: float) -> _HedgedAttempt:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(self._first.start(lease))
            second = group.create_task(self._run_second(delay))
            winner = await self._winner(first, second)
            self._record_loser()
            first.cancel()
            second.cancel()
        return winner

    async def _run_second(self, delay: float) -> None:
        await self._context.clock.sleep(delay)
        with self._acquire_second() as lease:
            if lease is not None:
                await self._second.start(lease)

    @contextmanager
    def _acquire_second(self) -> Iterator[EndpointLease | None]:
        """Leave to ask a second endpoint; None if there is no room or budget for it."""
        url = self._rotation.second_endpoint()
        with self._context.queue.extra_slot() as free:
            if url is None or not free or not self._context.hedging.spend():
                yield None
                return
            self._rotation.record_hedge(url)
            yield self._context.pool.leases.acquire(url)

    async def _winner(
        self, first: asyncio.Task[None], second: asyncio.Task[None]
    ) -> _HedgedAttempt:
        await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
        over = self._first.started or self._first.rejected or self._second.lease is None
        if first.done() and over:
            return self._first
        if self._second.started:
            return self._second
        # One has failed, or was not to be sent: the other one goes on.
        late, task = (self._second, second) if first.done() else (self._first, first)
        await asyncio.wait({task})
        return late

    def _record_loser(self) -> None:
        """An attempt still waiting for its first token was too slow; it has not failed."""
        for attempt in (self._first, self._second):
            if attempt.lease is None or attempt.outcome is not None:
                continue
            self._context.pool.health.record_overtaken(attempt.lease)
            if attempt is self._first:
                waited = self._context.clock.monotonic() - attempt.lease.acquired_at
                self._context.hedging.record_wait(waited)

    def _report(self, *, won: bool, delay: float) -> None:
        if self._second.lease is None:
            return
        host, path = split_label(self._second.lease.url)
        event = Hedged(
            request_id=self._request.request_id,
            task_type=self._request.task_type,
            endpoint=host,
            path=path,
            after_seconds=round(delay, 3),
            outcome="won" if won and isinstance(self._second.outcome, ProviderStream) else "lost",
        )
        self._context.observer.observe(event)
