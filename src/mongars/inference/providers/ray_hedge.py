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
from mongars.inference.failures import AttemptError
from mongars.inference.provider import ProviderStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from mongars.core.clock import Clock
    from mongars.core.generation import GenerationRequest
    from mongars.core.observe import Observer
    from mongars.inference.endpoints import Admission, EndpointPool
    from mongars.inference.gate import Gate
    from mongars.inference.hedging import Hedging
    from mongars.inference.rotation import Rotation

    Attempt = Callable[[Admission], AbstractAsyncContextManager[ProviderStream]]
    Outcome = ProviderStream | AttemptError | CallerError


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgeTools:
    """What all hedges share."""

    hedging: Hedging
    pool: EndpointPool
    gate: Gate
    clock: Clock
    observer: Observer


class _Runner:
    """One of the two attempts."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self.stack = AsyncExitStack()
        self.admission: Admission | None = None
        self.outcome: Outcome | None = None

    async def enter(self, admission: Admission) -> None:
        self.admission = admission
        try:
            self.outcome = await self.stack.enter_async_context(self._attempt(admission))
        except (AttemptError, CallerError) as failure:
            self.outcome = failure

    @property
    def began(self) -> bool:
        """Whether its answer has."""
        return isinstance(self.outcome, ProviderStream)

    @property
    def refused(self) -> bool:
        """Whether it found a mistake of the caller's."""
        return isinstance(self.outcome, CallerError)


class RayHedge:
    """A first attempt and, once that is late, a second one beside it."""

    def __init__(
        self,
        tools: HedgeTools,
        request: GenerationRequest,
        *,
        rotation: Rotation,
        attempt: Attempt,
    ) -> None:
        self._tools = tools
        self._request = request
        self._rotation = rotation
        self._first = _Runner(attempt)
        self._second = _Runner(attempt)

    @asynccontextmanager
    async def open(self, admission: Admission, *, delay: float) -> AsyncIterator[ProviderStream]:
        """The answer of whoever begins first. Raises what the later of two failures was."""
        async with self._first.stack, self._second.stack:
            winner = self._first
            try:
                winner = await self._race(admission, delay)
            finally:
                self._report(won=winner is self._second, delay=delay)
            loser = self._first if winner is self._second else self._second
            await loser.stack.aclose()  # both may have begun in the same moment
            if isinstance(winner.outcome, ProviderStream):
                yield winner.outcome
            elif winner.outcome is not None:
                raise winner.outcome

    async def _race(self, admission: Admission, delay: float) -> _Runner:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(self._first.enter(admission))
            second = group.create_task(self._go_beside(delay))
            winner = await self._decided(first, second)
            self._note_overtaken()
            first.cancel()
            second.cancel()
        return winner

    async def _go_beside(self, delay: float) -> None:
        await self._tools.clock.sleep(delay)
        with self._leave() as admission:
            if admission is not None:
                await self._second.enter(admission)

    @contextmanager
    def _leave(self) -> Iterator[Admission | None]:
        """Leave to ask a second endpoint; None if there is no room or budget for it."""
        url = self._rotation.beside()
        with self._tools.gate.spare() as free:
            if url is None or not free or not self._tools.hedging.spend():
                yield None
                return
            self._rotation.hedged(url)
            yield self._tools.pool.admit(url)

    async def _decided(self, first: asyncio.Task[None], second: asyncio.Task[None]) -> _Runner:
        await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
        over = self._first.began or self._first.refused or self._second.admission is None
        if first.done() and over:
            return self._first
        if self._second.began:
            return self._second
        # One has failed, or was not to be sent: the other one goes on.
        late, task = (self._second, second) if first.done() else (self._first, first)
        await asyncio.wait({task})
        return late

    def _note_overtaken(self) -> None:
        """Whoever is still waited for has been too slow; for nothing else is it to blame."""
        for runner in (self._first, self._second):
            if runner.admission is None or runner.outcome is not None:
                continue
            self._tools.pool.overtaken(runner.admission)
            if runner is self._first:
                waited = self._tools.clock.monotonic() - runner.admission.at
                self._tools.hedging.waited(waited)

    def _report(self, *, won: bool, delay: float) -> None:
        if self._second.admission is None:
            return
        host, path = split_label(self._second.admission.url)
        event = Hedged(
            request_id=self._request.request_id,
            task_type=self._request.task_type,
            endpoint=host,
            path=path,
            after_seconds=round(delay, 3),
            outcome="won" if won and isinstance(self._second.outcome, ProviderStream) else "lost",
        )
        self._tools.observer.observe(event)
