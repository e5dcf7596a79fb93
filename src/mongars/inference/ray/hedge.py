"""Sends one request to two endpoints: the first result to start is used, the other attempt is cancelled.

Each attempt is started in a task of its own, so that either can be cancelled, and closed by the task that
reads the result. The connection of each attempt is on an exit stack of its own from the start, so that it is
closed with any outcome: a result, two failures, or cancellation.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

from mongars.core.errors import CallerError
from mongars.inference.events import Hedged, split_label
from mongars.inference.ray.exchange import EndpointResult, ResultT
from mongars.inference.retry.failures import AttemptError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from mongars.core.clock import Clock
    from mongars.core.observe import Observer
    from mongars.inference.endpoints.pool import EndpointPool
    from mongars.inference.endpoints.rotation import Rotation
    from mongars.inference.endpoints.state import EndpointLease
    from mongars.inference.ray.exchange import EndpointExchange
    from mongars.inference.request_queue import RequestQueue
    from mongars.inference.retry.hedging import Hedging

    StartAttempt = Callable[[EndpointLease], AbstractAsyncContextManager[EndpointResult[ResultT]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgeContext:
    """What all requests that may be hedged (sent to a second endpoint too, as the first is slow) share.

    `hedging` decides when and how often this is done; the others are the endpoint states, the queue, the clock and the
    observer of events.
    """

    hedging: Hedging
    pool: EndpointPool
    queue: RequestQueue
    clock: Clock
    observer: Observer


class _HedgedAttempt(Generic[ResultT]):
    """One of the two attempts of a hedged request: its result or error, and the stack that holds its connection.

    `lease`: the permission under which it is sent, None until then. `outcome`: None until a result has started or
    failed.
    """

    def __init__(self, attempt: StartAttempt[ResultT]) -> None:
        self._attempt = attempt
        self.stack = AsyncExitStack()
        self.lease: EndpointLease | None = None
        self.outcome: EndpointResult[ResultT] | AttemptError | CallerError | None = None

    async def start(self, lease: EndpointLease) -> None:
        self.lease = lease
        try:
            self.outcome = await self.stack.enter_async_context(self._attempt(lease))
        except (AttemptError, CallerError) as failure:
            self.outcome = failure

    @property
    def started(self) -> bool:
        """Whether the first content of this attempt's answer, or its vectors, have arrived."""
        return isinstance(self.outcome, EndpointResult)

    @property
    def rejected(self) -> bool:
        """Whether the endpoint found the request itself wrong (`CallerError`)."""
        return isinstance(self.outcome, CallerError)


class RayHedge(Generic[ResultT]):
    """Sends one request to an endpoint and, if no result has started after a delay, also to a second one (a hedge).

    A result has started when the first content of an answer, or all vectors, have arrived.
    """

    def __init__(
        self,
        context: HedgeContext,
        exchange: EndpointExchange[ResultT],
        *,
        rotation: Rotation,
        attempt: StartAttempt[ResultT],
    ) -> None:
        """`exchange`: the request. `rotation` chooses the second endpoint.

        `attempt`: function that sends the request once, under a given permission (lease), and returns a context
        manager that is entered when the first content of the answer, or all vectors, have arrived.
        """
        self._context = context
        self._exchange = exchange
        self._rotation = rotation
        self._first = _HedgedAttempt(attempt)
        self._second = _HedgedAttempt(attempt)

    @asynccontextmanager
    async def open(
        self, lease: EndpointLease, *, delay: float
    ) -> AsyncIterator[EndpointResult[ResultT]]:
        """Context manager of the first result to start, of two attempts; the other attempt is cancelled.

        The first attempt is sent under the permission `lease`; the second, `delay` seconds later, only if the first
        has no result by then and the limits on hedges permit it. A result has started when the first content of an
        answer, or all vectors, have arrived.

        If neither starts a result, entering raises the `CallerError` of the attempt that found the request wrong, if
        any, else the `AttemptError` of the later failure. A `CallerError` of the first attempt is raised at once;
        while the first attempt runs, that of the second is not, since the first endpoint may accept the request.
        """
        async with self._first.stack, self._second.stack:
            winner = self._first
            try:
                winner = await self._race(lease, delay)
            finally:
                self._report(won=winner is self._second, delay=delay)
            loser = self._first if winner is self._second else self._second
            await loser.stack.aclose()  # both may have started at the same time
            if isinstance(winner.outcome, EndpointResult):
                yield winner.outcome
            elif winner.outcome is not None:
                raise winner.outcome

    async def _race(self, lease: EndpointLease, delay: float) -> _HedgedAttempt[ResultT]:
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
        """Context manager that holds a place in the queue and a lease (permission to send) for the second attempt.

        Yields the lease; None if no endpoint is available, the queue has no free place or no more hedges are allowed
        now.
        """
        url = self._rotation.second_endpoint()
        with self._context.queue.extra_slot() as free:
            if url is None or not free or not self._context.hedging.spend():
                yield None
                return
            self._rotation.record_hedge(url)
            yield self._context.pool.leases.acquire(url)

    async def _winner(
        self, first: asyncio.Task[None], second: asyncio.Task[None]
    ) -> _HedgedAttempt[ResultT]:
        await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
        decided = self._first.started or self._first.rejected or self._second.lease is None
        if first.done() and decided:
            return self._first
        if self._second.started:
            return self._second
        # One attempt has failed or was not sent: wait for the other.
        ended = self._first if first.done() else self._second
        other, task = (self._second, second) if first.done() else (self._first, first)
        await asyncio.wait({task})
        return ended if ended.rejected and not other.started else other

    def _record_loser(self) -> None:
        """Record how long each attempt to be cancelled has waited: a latency sample of its endpoint, not a failure."""
        for attempt in (self._first, self._second):
            if attempt.lease is None or attempt.outcome is not None:
                continue
            self._context.pool.outcomes.record_overtaken(attempt.lease)
            if attempt is self._first:
                waited = self._context.clock.monotonic() - attempt.lease.acquired_at
                self._context.hedging.record_wait(waited)

    def _report(self, *, won: bool, delay: float) -> None:
        if self._second.lease is None:
            return
        host, path = split_label(self._exchange.target(self._second.lease.url))
        event = Hedged(
            request_id=self._exchange.request_id,
            task_type=self._exchange.task_type,
            endpoint=host,
            path=path,
            after_seconds=round(delay, 3),
            outcome="won" if won and self._second.started else "lost",
        )
        self._context.observer.observe(event)
