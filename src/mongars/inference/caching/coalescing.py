"""The answer cache in front of the chain of providers.

```
request ── not to be stored ──────────────────────────────────► chain
        ├─ stored, by the model and adapter in use now ───────► replayed             hit
        ├─ equal to one in progress, in the same user's scope ► its generation       shared
        └─ else ─► a new generation ─► chain ─► stored if complete, without failover miss
```

Requests that share a generation share its failure, except that a generation may run out of time
before the deadline of a request that joined it. Those requests start another one together, and
continue after the text they have received.
"""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Self

from mongars.core.errors import AllProvidersFailed, DeadlineExceeded, WorldError
from mongars.inference.caching.cache import (
    AnswerCache,
    CachedAnswer,
    CurrentWeights,
    ReplayedChunks,
    answer_key,
)
from mongars.inference.caching.single_flight import GenerationReader, SharedGeneration
from mongars.inference.chain import AnswerStream, answered
from mongars.inference.provider import ProviderStream
from mongars.inference.request_report import RequestReport
from mongars.inference.streams.continuation import FailoverChunks, Resumed, can_fail_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from mongars.core.clock import Clock
    from mongars.core.deadline import Deadline
    from mongars.core.generation import Chunk, GenerationRequest, Origin, Usage
    from mongars.core.observe import Observer
    from mongars.inference.chain import ProviderChain
    from mongars.inference.config import InferenceConfig
    from mongars.inference.provider import CacheUse, ProviderName, Route, StreamState


class CoalescingCache:
    """Answers each request from the cache, from a generation in progress for an identical request, or by the chain.

    The chain sends the request to one provider after the other. Requests are identical if `answer_key` gives the same
    key; requests without a key always go to the chain.
    """

    def __init__(
        self,
        chain: ProviderChain,
        config: InferenceConfig,
        *,
        clock: Clock,
        observer: Observer,
        preferred: ProviderName,
    ) -> None:
        """`chain` generates the answers that are not cached; `config` sets the cache's size and storage time.

        `preferred`: the provider whose answers are stored; those of the others are passed on, but not stored.
        `observer` receives the events about requests answered from the cache or by a shared generation.
        """
        self._chain = chain
        self._defaults = config.sampling
        self._clock = clock
        self._observer = observer
        self._preferred = preferred
        self._cache = AnswerCache(
            max_bytes=config.answer_cache_bytes, seconds=config.answer_cache_seconds, clock=clock
        )
        self._current_weights = CurrentWeights(clock)
        self._generations: dict[bytes, SharedGeneration] = {}

    @asynccontextmanager
    async def open(
        self, request: GenerationRequest, deadline: Deadline
    ) -> AsyncIterator[AnswerStream]:
        """Context manager of a started answer: a stored one, that of an identical request in progress, or a new one.

        Entering waits for the first content. It raises a `CallerError` if the request is wrong, or
        `AllProvidersFailed`, also if `deadline`, the time by which the answer must be complete, passes first. If it
        passes later, iteration raises `GenerationInterrupted`. Leaving stops the generation unless other requests read
        it. Events of a shared generation contain the id of the request that started it.
        """
        key = answer_key(request, self._defaults)
        if key is None:
            async with self._chain.open(request, deadline) as answer:
                self._note(request, answer)
                yield answer
            return
        start = self._clock.monotonic()
        call = _CoalescedRequest(self, request, key=key, deadline=deadline)
        async with AsyncExitStack() as ends:
            answer = self._stored(request, key) or await call.start()
            started_at = self._clock.monotonic()
            ends.push_async_exit(answer.chunks.release)
            try:
                yield answer
            finally:
                if answer.route.cache != "miss":
                    seconds = (started_at - start, self._clock.monotonic() - start)
                    self._observer.observe(answered(request, answer, seconds))

    def _stored(self, request: GenerationRequest, key: bytes) -> AnswerStream | None:
        found = self._cache.get(key, self._current_weights.current(request))
        if found is None:
            return None
        route = _without_attempts(found.route, "hit")
        stream = ProviderStream(
            origin=found.origin, endpoint=route.endpoint, chunks=ReplayedChunks(found)
        )
        return AnswerStream(chunks=FailoverChunks(stream, AsyncExitStack(), None, route=route))

    def generation(
        self, request: GenerationRequest, *, key: bytes, deadline: Deadline
    ) -> tuple[SharedGeneration, CacheUse]:
        """The generation for `request`, and `shared` if it was in progress already or `miss` if it is new.

        `key`: the request's cache key, by which a generation in progress is found. `deadline` applies to a new
        generation; it is not started before `SharedGeneration.subscribe` is entered.
        """
        found = self._generations.get(key)
        if found is not None:
            return found, "shared"

        def ended(generation: SharedGeneration) -> None:
            del self._generations[key]
            self._keep(key, generation)

        new = SharedGeneration(
            self._chain.open(request, deadline, cache="miss"),
            deadline=deadline,
            on_start=lambda answer: self._note(request, answer),
            on_end=ended,
        )
        self._generations[key] = new
        return new, "miss"

    def _keep(self, key: bytes, generation: SharedGeneration) -> None:
        """Store the answer of an ended generation in the cache, under `key`.

        Nothing is stored if the answer is incomplete, was continued at another provider or endpoint after its stream
        broke, or is not from the preferred provider.
        """
        answer = generation.answer
        if answer is None or not generation.complete or answer.chunks.moves:
            return
        if answer.route.provider != self._preferred:
            return
        kept = CachedAnswer(
            chunks=tuple(generation.chunks), origin=answer.origin, route=answer.route
        )
        self._cache.put(key, kept)

    def _note(self, request: GenerationRequest, answer: AnswerStream) -> None:
        if answer.route.provider == self._preferred:
            self._current_weights.note(request, answer.origin)

    def report(self, request: GenerationRequest) -> RequestReport:
        """A new `RequestReport`, whose methods emit the events of `request`; call it when its processing begins."""
        return RequestReport(
            self._observer,
            self._clock,
            request_id=request.request_id,
            task_type=request.task_type,
        )


class _CoalescedRequest:
    """One request that reads a shared generation.

    If that generation fails because its own deadline passed, and this request has more time left than that generation
    had in all, the request joins another generation or starts one.
    """

    def __init__(
        self, shared: CoalescingCache, request: GenerationRequest, *, key: bytes, deadline: Deadline
    ) -> None:
        self._shared = shared
        self._request = request
        self._key = key
        self._deadline = deadline
        self._generation: SharedGeneration | None = None
        self._use: CacheUse = "miss"

    async def start(self) -> AnswerStream:
        """Join a generation for this request, wait for its first content, and return the answer.

        The request reads the generation until `release` of the answer's chunks is called. Raises a `CallerError` if the
        request is wrong, or `AllProvidersFailed`.
        """
        stack, report = AsyncExitStack(), self._shared.report(self._request)
        try:
            generation, answer = await self._join(stack)
        except WorldError as error:
            if self._use == "shared":
                report.unanswered(error)
            raise
        except asyncio.CancelledError:
            if self._use == "shared":
                report.cancelled()
            raise
        route = answer.route
        if self._use == "shared":
            route = dataclasses.replace(_without_attempts(route, "shared"), waited=report.seconds())
        reopen = self._reopen if can_fail_over(self._request) else None
        chunks = FailoverChunks(self._stream(generation, answer), stack, reopen, route=route)
        return AnswerStream(chunks=CoalescedChunks(chunks))

    async def _join(self, stack: AsyncExitStack) -> tuple[SharedGeneration, AnswerStream]:
        while True:
            generation, self._use = self._shared.generation(
                self._request, key=self._key, deadline=self._deadline
            )
            self._generation = generation
            async with AsyncExitStack() as leaving:
                await leaving.enter_async_context(generation.subscribe())
                try:
                    answer = await generation.started(self._deadline)
                except DeadlineExceeded as error:
                    raise AllProvidersFailed((("shared", error),)) from error
                except WorldError:
                    if not self._has_more_time(generation):
                        raise
                else:
                    stack.push_async_exit(leaving.pop_all())
                    return generation, answer

    async def _reopen(
        self, delivered: str, _origin: Origin, stack: AsyncExitStack
    ) -> Resumed | None:
        if self._generation is None or not self._has_more_time(self._generation):
            return None
        try:
            generation, answer = await self._join(stack)
        except WorldError:
            return None
        return Resumed(
            stream=self._stream(generation, answer),
            route=answer.route
            if self._use == "miss"
            else _without_attempts(answer.route, "shared"),
            known=delivered,
        )

    def _has_more_time(self, generation: SharedGeneration) -> bool:
        return generation.timed_out and self._deadline.remaining() > generation.time_budget

    def _stream(self, generation: SharedGeneration, answer: AnswerStream) -> ProviderStream:
        return ProviderStream(
            origin=answer.origin,
            endpoint=answer.route.endpoint,
            chunks=GenerationReader(generation, self._deadline),
        )


class CoalescedChunks:
    """The chunks of one request's answer, read from a generation that it shares with identical requests.

    If the shared generation moves to another provider because its stream broke, that applies to all requests that read
    it.
    """

    def __init__(self, chunks: FailoverChunks) -> None:
        """`chunks`: reads the shared generation; if that ends for lack of time, it switches to another generation."""
        self._chunks = chunks

    @property
    def route(self) -> Route:
        """Provider and endpoint that generate the answer now.

        `attempts` counts the requests to model servers on behalf of this request: those of the generation if this
        request started it, else 0, also after the generation that it shares has moved to another provider.
        """
        route, answer = self._chunks.route, self._answer
        if answer is None or answer.route.provider == route.provider:
            return route
        return _without_attempts(answer.route, route.cache)

    @property
    def moves(self) -> int:
        """How often another stream was tried because one broke, by this request and by the generation it reads."""
        answer = self._answer
        return self._chunks.moves + (0 if answer is None else answer.chunks.moves)

    @property
    def origin(self) -> Origin:
        """Model, adapter and replica that generate the answer now."""
        answer = self._answer
        return self._chunks.origin if answer is None else answer.origin

    @property
    def state(self) -> StreamState:
        """`open` while more chunks may come, `complete`, or `cut` if the answer broke off before it was complete."""
        return self._chunks.state

    @property
    def usage(self) -> Usage | None:
        """Token counts of the answer as the engine reported them; None until the chunk with them has been read."""
        return self._chunks.usage

    async def release(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop reading the shared generation; it is cancelled if no other request reads it.

        The arguments are those of `__aexit__`.
        """
        await self._chunks.release(kind, error, trace)

    def ready(self) -> list[Chunk]:
        """Remove and return the chunks that have arrived and were not read yet, without waiting; possibly empty."""
        return self._chunks.ready()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        return await anext(self._chunks)

    @property
    def _answer(self) -> AnswerStream | None:
        source = self._chunks.source
        return source.answer if isinstance(source, GenerationReader) else None


def _without_attempts(route: Route, cache: CacheUse | None) -> Route:
    """A copy of `route` with 0 attempts, no waiting time, and `cache` as its cache use.

    For a request whose answer was stored (`hit`) or shared (`shared`), so that it sent nothing to a provider itself.
    `cache` None: the copy's `cache` is None, as for answers that are never cached.
    """
    return dataclasses.replace(route, attempts=0, waited=0.0, cache=cache)
