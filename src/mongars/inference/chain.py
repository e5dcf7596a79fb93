"""The chain of providers: the first that can begin an answer gives it.

A `CallerError` ends it, since no other provider could do better; but for a prompt that is too long, which
a provider with a larger window can answer, and for a parameter that an engine does not support, which
the next one may. That alone is no fallback: nothing has failed.

Falling back is invisible before the first content token. After it a cut answer goes on only where the
new words provably follow the delivered ones (`inference.continuation`); else the cut is reported.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongars.core.errors import (
    AllProvidersFailed,
    ConfigurationError,
    ContextLengthExceeded,
    GenerationInterrupted,
    InferenceFailed,
    MongarsError,
    ParameterUnsupported,
    WorldError,
)
from mongars.core.generation import Begun
from mongars.inference.continuation import MovingChunks, Resumed, anchor, movable
from mongars.inference.events import (
    Answered,
    FallbackReason,
    FellBack,
    LargerContext,
    LocalFailed,
    Moved,
    Outcome,
    Unanswered,
)
from mongars.inference.failures import EmptyAnswer
from mongars.inference.larger import holds, measured
from mongars.inference.provider import Attempts, Route, StreamState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from mongars.core.deadline import Deadline
    from mongars.core.generation import GenerationRequest, Origin
    from mongars.core.observe import Observer
    from mongars.inference.continuation import Reopen
    from mongars.inference.provider import CacheUse, Provider, ProviderStream

_OUTCOMES: dict[StreamState, Outcome] = {
    "complete": "success",
    "cut": "error",
    "open": "cancelled",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer that has begun; iterate it for its chunks.

    Iterating raises `GenerationInterrupted` if it is cut; if it just ends, it is complete.
    """

    chunks: MovingChunks

    @property
    def route(self) -> Route:
        """Which way it comes: after a move, of whoever goes on."""
        return self.chunks.route

    @property
    def origin(self) -> Origin:
        """Who gives it: after a move, who goes on."""
        return self.chunks.origin

    def __aiter__(self) -> MovingChunks:
        return self.chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ask:
    """One question on its way: by when, and how often it was sent."""

    request: GenerationRequest
    deadline: Deadline
    attempts: Attempts
    cache: CacheUse | None

    def open(self, provider: Provider) -> AbstractAsyncContextManager[ProviderStream]:
        """Put it to that provider."""
        return provider.open(self.request, self.deadline, self.attempts)

    def measured(self, error: ContextLengthExceeded) -> _Ask:
        """The same, for who makes room for it."""
        return dataclasses.replace(self, request=measured(self.request, error))


class ProviderChain:
    """Providers in order of preference."""

    def __init__(
        self, providers: tuple[Provider, ...], *, observer: Observer, cure: str = ""
    ) -> None:
        """`cure` is what to do about a total failure, for its message."""
        if not providers:
            detail = "No provider can answer: configure RAY_SERVE_URL or a local model."
            raise ConfigurationError(detail)
        self._providers = providers
        self._observer = observer
        self._cure = cure

    @asynccontextmanager
    async def open(
        self, request: GenerationRequest, deadline: Deadline, *, cache: CacheUse | None = None
    ) -> AsyncIterator[Answer]:
        """Begin an answer with the first provider that can; `cache` is for its route.

        Raises a `CallerError` at once, or `AllProvidersFailed` with the cause of each.
        """
        clock = deadline.clock
        start = clock.monotonic()
        ask = _Ask(request=request, deadline=deadline, attempts=Attempts(clock), cache=cache)
        async with AsyncExitStack() as ends:
            stack = AsyncExitStack()
            try:
                answer = await self._begin(ask, stack)
            except AllProvidersFailed as error:
                self._observer.observe(
                    Unanswered(
                        request_id=request.request_id,
                        task_type=request.task_type,
                        cause=error.code,
                        seconds=clock.monotonic() - start,
                    )
                )
                raise
            began = clock.monotonic()
            ends.push_async_exit(answer.chunks.leave)
            try:
                yield answer
            finally:
                reason = answer.route.reason
                ended = answer.chunks.state == "complete"
                if ended and reason is not None and not ask.attempts.fell_back:  # cut at Ray
                    self._fell_back(ask, reason, cause=GenerationInterrupted.code)
                seconds = (began - start, clock.monotonic() - start)
                self._observer.observe(answered(request, answer, seconds))

    async def _begin(self, ask: _Ask, stack: AsyncExitStack) -> Answer:
        causes: list[tuple[str, WorldError]] = []
        unsupported: ParameterUnsupported | None = None
        reason: FallbackReason | None = None
        for index, provider in enumerate(self._providers):
            if causes and ask.deadline.expired():
                break
            try:
                stream = await stack.enter_async_context(ask.open(provider))
            except ContextLengthExceeded as error:
                if not ask.request.shortens:
                    rest = self._providers[index:]  # it may make room itself, now that it must
                    larger = self._begin_larger(ask.measured(error), stack, rest, reason=reason)
                    answer = await larger
                    if answer is not None:
                        self._observer.observe(_larger(ask.request, answer.route, error))
                        return answer
                raise
            except ParameterUnsupported as error:
                unsupported = error
                continue
            except WorldError as error:
                causes.append((provider.name, error))
                reason = self._give_up(provider, ask, error) or reason
                continue
            route = _route(provider, stream, ask, reason=reason)
            mover = self._mover(ask, route, among=self._providers)
            return Answer(chunks=MovingChunks(stream, stack, mover, route=route))
        if unsupported is not None and not causes:
            raise unsupported
        raise AllProvidersFailed(tuple(causes), cure=self._cure)

    async def _begin_larger(
        self,
        ask: _Ask,
        stack: AsyncExitStack,
        providers: Sequence[Provider],
        *,
        reason: FallbackReason | None,
    ) -> Answer | None:
        """The answer of the first of them that holds the prompt and begins one.

        What else goes wrong there is no news to the caller, whose prompt is too long anyway.
        """
        for provider in providers:
            if ask.deadline.expired():
                break
            if not await holds(provider, ask.request):
                continue
            try:
                stream = await stack.enter_async_context(ask.open(provider))
            except MongarsError as error:
                self._give_up(provider, ask, error)
                continue
            route = _route(provider, stream, ask, reason=reason)
            mover = self._mover(ask, route, among=(provider,))
            return Answer(chunks=MovingChunks(stream, stack, mover, route=route))
        return None

    def _mover(self, ask: _Ask, first: Route, *, among: Sequence[Provider]) -> Reopen | None:
        """What completes the answer if it is cut; None if nobody may."""
        given = Counter([first.provider])
        request, deadline = ask.request, ask.deadline
        if not movable(request):
            return None

        async def reopen(delivered: str, origin: Origin, stack: AsyncExitStack) -> Resumed | None:
            begun = Begun(
                text=anchor(delivered, request.sampling.stop),
                model=origin.model,
                adapter_version=origin.adapter_version,
                adapter_digest=origin.adapter_digest,
            )
            asked = dataclasses.replace(
                ask, request=dataclasses.replace(request, continue_from=begun)
            )
            for provider in among:
                if deadline.expired():
                    break
                if given[provider.name] > 1:
                    continue  # it was cut twice: once by chance, once more for a reason
                try:
                    stream = await stack.enter_async_context(asked.open(provider))
                except MongarsError as error:
                    self._give_up(provider, ask, error)
                    continue
                given[provider.name] += 1
                self._observer.observe(
                    Moved(
                        request_id=request.request_id,
                        task_type=request.task_type,
                        provider=provider.name,
                        endpoint=stream.endpoint,
                        kind="continued" if stream.continued else "restarted",
                    )
                )
                left_ray = first.provider == "ray_serve" != provider.name
                reason = "ray_exception" if left_ray else first.reason
                return Resumed(
                    stream=stream,
                    route=_route(provider, stream, ask, reason=reason),
                    known=delivered[len(begun.text) :] if stream.continued else delivered,
                )
            return None

        return reopen

    def _give_up(self, provider: Provider, ask: _Ask, error: MongarsError) -> FallbackReason | None:
        """Report a provider's failure; returns the reason if it was Ray that failed."""
        request = ask.request
        if provider.name != "ray_serve":
            self._observer.observe(
                LocalFailed(
                    request_id=request.request_id,
                    task_type=request.task_type,
                    provider=provider.name,
                    cause=error.code,
                )
            )
            return None
        reason = fallback_reason(error)
        self._fell_back(ask, reason, cause=error.code)
        return reason

    def _fell_back(self, ask: _Ask, reason: FallbackReason, *, cause: str) -> None:
        ask.attempts.fell_back = True
        self._observer.observe(
            FellBack(
                request_id=ask.request.request_id,
                task_type=ask.request.task_type,
                reason=reason,
                cause=cause,
            )
        )


def fallback_reason(error: MongarsError) -> FallbackReason:
    """The published word for why Ray did not answer."""
    if isinstance(error, EmptyAnswer):
        return "empty_response"
    return "error_response" if isinstance(error, InferenceFailed) else "ray_exception"


def _route(
    provider: Provider, stream: ProviderStream, ask: _Ask, *, reason: FallbackReason | None
) -> Route:
    return Route(
        provider=provider.name,
        endpoint=stream.endpoint,
        attempts=ask.attempts.count,
        fallback=reason is not None,
        reason=reason,
        cache=ask.cache,
        waited=ask.attempts.waited,
    )


def _larger(
    request: GenerationRequest, route: Route, error: ContextLengthExceeded
) -> LargerContext:
    return LargerContext(
        request_id=request.request_id,
        task_type=request.task_type,
        provider=route.provider,
        endpoint=route.endpoint,
        prompt_tokens=error.prompt_tokens,
        context_tokens=error.context_tokens,
    )


def answered(request: GenerationRequest, answer: Answer, seconds: tuple[float, float]) -> Answered:
    """What is told of an answer at its end; `seconds` to its first content, and in all."""
    usage = answer.chunks.usage
    return Answered(
        request_id=request.request_id,
        task_type=request.task_type,
        provider=answer.route.provider,
        endpoint=answer.route.endpoint,
        attempts=answer.route.attempts,
        fallback=answer.route.fallback,
        reason=answer.route.reason,
        outcome=_outcome(answer),
        adapter_version=answer.origin.adapter_version,
        first_token_seconds=seconds[0],
        seconds=seconds[1],
        prompt_tokens=None if usage is None else usage.prompt_tokens,
        completion_tokens=None if usage is None else usage.completion_tokens,
        moves=answer.chunks.moves,
        cache=answer.route.cache,
    )


def _outcome(answer: Answer) -> Outcome:
    outcome = _OUTCOMES[answer.chunks.state]
    return "fallback" if outcome == "success" and answer.route.fallback else outcome
