"""The answer cache before the chain: a stored answer, one in the making, or a new one.

```
question ── not to be kept ─────────────────────────────► chain
         ├─ stored, by the weights that answer now ─────► replayed           hit
         ├─ being answered for somebody of the same scope ► its flight        shared
         └─ else ─► a new flight ─► chain ─► kept if complete and first-hand  miss
```

A question that shares a flight shares its failure, with one exception: a flight whose time was too
short says nothing to whoever has more. They ask again, together, and go on behind what they had.
"""

from __future__ import annotations

import dataclasses
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from mongars.core.errors import AllProvidersFailed, DeadlineExceeded, WorldError
from mongars.inference.cache import AnswerCache, Replay, Reported, Stored, answer_key
from mongars.inference.chain import Answer, answered
from mongars.inference.continuation import MovingChunks, Resumed, movable
from mongars.inference.events import Unanswered
from mongars.inference.flight import Flight, Listener
from mongars.inference.provider import ProviderStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.core.clock import Clock
    from mongars.core.deadline import Deadline
    from mongars.core.generation import GenerationRequest, Origin
    from mongars.core.observe import Observer
    from mongars.inference.chain import ProviderChain
    from mongars.inference.config import InferenceConfig
    from mongars.inference.provider import CacheUse, ProviderName, Route


class SharedAnswers:
    """Answers by the chain, once for all who ask the same."""

    def __init__(
        self,
        chain: ProviderChain,
        config: InferenceConfig,
        *,
        clock: Clock,
        observer: Observer,
        preferred: ProviderName,
    ) -> None:
        """Only answers of the provider `preferred` are kept."""
        self._chain = chain
        self._defaults = config.sampling
        self._clock = clock
        self._observer = observer
        self._preferred = preferred
        self._cache = AnswerCache(
            most_bytes=config.answer_cache_bytes, seconds=config.answer_cache_seconds, clock=clock
        )
        self._reported = Reported(clock)
        self._flights: dict[bytes, Flight] = {}

    @asynccontextmanager
    async def open(self, request: GenerationRequest, deadline: Deadline) -> AsyncIterator[Answer]:
        """Begin an answer; see `ProviderChain.open`. A flight's own events name who began it."""
        key = answer_key(request, self._defaults)
        if key is None:
            async with self._chain.open(request, deadline) as answer:
                self._note(request, answer)
                yield answer
            return
        start = self._clock.monotonic()
        seat = _Seat(self, request, key=key, deadline=deadline)
        async with AsyncExitStack() as ends:
            answer = self._stored(request, key) or await seat.taken()
            began = self._clock.monotonic()
            ends.push_async_exit(answer.chunks.leave)
            try:
                yield answer
            finally:
                if answer.route.cache != "miss":
                    seconds = (began - start, self._clock.monotonic() - start)
                    self._observer.observe(answered(request, answer, seconds))

    def _stored(self, request: GenerationRequest, key: bytes) -> Answer | None:
        found = self._cache.get(key, self._reported.current(request))
        if found is None:
            return None
        route = _without_work(found.route, "hit")
        stream = ProviderStream(origin=found.origin, endpoint=route.endpoint, chunks=Replay(found))
        return Answer(chunks=MovingChunks(stream, AsyncExitStack(), None, route=route))

    def flight(
        self, request: GenerationRequest, *, key: bytes, deadline: Deadline
    ) -> tuple[Flight, CacheUse]:
        """The flight that answers this question: one that is under way, or a new one."""
        found = self._flights.get(key)
        if found is not None:
            return found, "shared"

        def ended(flight: Flight) -> None:
            del self._flights[key]
            self._keep(key, flight)

        new = Flight(
            self._chain.open(request, deadline, cache="miss"),
            deadline=deadline,
            began=lambda answer: self._note(request, answer),
            ended=ended,
        )
        self._flights[key] = new
        return new, "miss"

    def _keep(self, key: bytes, flight: Flight) -> None:
        """Keep what came complete, undisturbed and first-hand."""
        answer = flight.answer
        if answer is None or not flight.complete or answer.chunks.moves:
            return
        if answer.route.provider != self._preferred:
            return
        kept = Stored(chunks=tuple(flight.chunks), origin=answer.origin, route=answer.route)
        self._cache.put(key, kept)

    def _note(self, request: GenerationRequest, answer: Answer) -> None:
        if answer.route.provider == self._preferred:
            self._reported.note(request, answer.origin)

    def unanswered(self, request: GenerationRequest, error: WorldError, seconds: float) -> None:
        """A question that shared a flight has failed with it."""
        self._observer.observe(
            Unanswered(
                request_id=request.request_id,
                task_type=request.task_type,
                cause=error.code,
                seconds=seconds,
            )
        )


class _Seat:
    """One question's place in a flight, and in the next one if that had too little time."""

    def __init__(
        self, shared: SharedAnswers, request: GenerationRequest, *, key: bytes, deadline: Deadline
    ) -> None:
        self._shared = shared
        self._request = request
        self._key = key
        self._deadline = deadline
        self._flight: Flight | None = None
        self._use: CacheUse = "miss"

    async def taken(self) -> Answer:
        """The flight's answer, once it has begun. Raises what `ProviderChain.open` raises."""
        stack, start = AsyncExitStack(), self._deadline.clock.monotonic()
        try:
            flight, answer = await self._board(stack)
        except WorldError as error:
            if self._use == "shared":
                seconds = self._deadline.clock.monotonic() - start
                self._shared.unanswered(self._request, error, seconds)
            raise
        route = answer.route
        if self._use == "shared":
            waited = self._deadline.clock.monotonic() - start
            route = dataclasses.replace(_without_work(route, "shared"), waited=waited)
        reopen = self._reopen if movable(self._request) else None
        chunks = SharedChunks(self._stream(flight, answer), stack, reopen, route=route)
        return Answer(chunks=chunks)

    async def _board(self, stack: AsyncExitStack) -> tuple[Flight, Answer]:
        while True:
            flight, self._use = self._shared.flight(
                self._request, key=self._key, deadline=self._deadline
            )
            self._flight = flight
            async with AsyncExitStack() as leaving:
                await leaving.enter_async_context(flight.listening())
                try:
                    answer = await flight.begun(self._deadline)
                except DeadlineExceeded as error:
                    raise AllProvidersFailed((("shared", error),)) from error
                except WorldError:
                    if not self._has_more_time(flight):
                        raise
                else:
                    stack.push_async_exit(leaving.pop_all())
                    return flight, answer

    async def _reopen(
        self, delivered: str, _origin: Origin, stack: AsyncExitStack
    ) -> Resumed | None:
        if self._flight is None or not self._has_more_time(self._flight):
            return None
        try:
            flight, answer = await self._board(stack)
        except WorldError:
            return None
        return Resumed(
            stream=self._stream(flight, answer),
            route=answer.route if self._use == "miss" else _without_work(answer.route, "shared"),
            known=delivered,
        )

    def _has_more_time(self, flight: Flight) -> bool:
        return flight.late and self._deadline.remaining() > flight.span

    def _stream(self, flight: Flight, answer: Answer) -> ProviderStream:
        return ProviderStream(
            origin=answer.origin,
            endpoint=answer.route.endpoint,
            chunks=Listener(flight, self._deadline),
        )


class SharedChunks(MovingChunks):
    """The chunks of a flight; its answer may move while it is read."""

    @property
    def route(self) -> Route:
        """Which way it comes now; what was sent for it was the flight's."""
        answer = self._answer
        if answer is None or answer.route.provider == self._route.provider:
            return self._route
        return _without_work(answer.route, self._route.cache)

    @property
    def moves(self) -> int:
        """This question's own, and the flight's."""
        return self._moves + (0 if self._answer is None else self._answer.chunks.moves)

    @property
    def origin(self) -> Origin:
        """Who gives the answer now."""
        answer = self._answer
        return self._current.origin if answer is None else answer.origin

    @property
    def _answer(self) -> Answer | None:
        heard = self._current.chunks
        return heard.answer if isinstance(heard, Listener) else None


def _without_work(route: Route, cache: CacheUse | None) -> Route:
    """The route of an answer for which this question has sent nothing."""
    return dataclasses.replace(route, attempts=0, waited=0.0, cache=cache)
