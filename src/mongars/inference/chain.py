"""The chain of providers: the first that can begin an answer gives it.

Falling back happens only before the first content token. After it the stream belongs to its
provider: a cut is reported, never papered over with somebody else's words.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongars.core.errors import (
    AllProvidersFailed,
    ConfigurationError,
    InferenceFailed,
    WorldError,
)
from mongars.inference.events import (
    Answered,
    FallbackReason,
    FellBack,
    LocalFailed,
    Outcome,
    Unanswered,
)
from mongars.inference.failures import EmptyAnswer
from mongars.inference.provider import Attempts, ProviderStream, Route, StreamState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.core.deadline import Deadline
    from mongars.core.generation import GenerationRequest, Origin
    from mongars.core.observe import Observer
    from mongars.inference.provider import ChunkStream, Provider

_OUTCOMES: dict[StreamState, Outcome] = {
    "complete": "complete",
    "cut": "interrupted",
    "open": "abandoned",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer that has begun; iterate it for its chunks.

    Iterating raises `GenerationInterrupted` if it is cut; if it just ends, it is complete.
    """

    origin: Origin
    route: Route
    chunks: ChunkStream

    def __aiter__(self) -> ChunkStream:
        return self.chunks


class ProviderChain:
    """Providers in order of preference."""

    def __init__(self, providers: tuple[Provider, ...], *, observer: Observer) -> None:
        if not providers:
            detail = "No provider can answer: configure RAY_SERVE_URL or a local model."
            raise ConfigurationError(detail)
        self._providers = providers
        self._observer = observer

    @asynccontextmanager
    async def open(self, request: GenerationRequest, deadline: Deadline) -> AsyncIterator[Answer]:
        """Begin an answer with the first provider that can.

        Raises a `CallerError` at once, or `AllProvidersFailed` with the cause of each.
        """
        clock = deadline.clock
        start = clock.monotonic()
        async with AsyncExitStack() as stack:
            try:
                answer = await self._begin(request, deadline, stack)
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
            try:
                yield answer
            finally:
                seconds = (began - start, clock.monotonic() - start)
                self._observer.observe(_answered(request, answer, seconds))

    async def _begin(
        self, request: GenerationRequest, deadline: Deadline, stack: AsyncExitStack
    ) -> Answer:
        attempts = Attempts()
        causes: list[tuple[str, WorldError]] = []
        reason: FallbackReason | None = None
        for provider in self._providers:
            if causes and deadline.expired():
                break
            try:
                stream = await stack.enter_async_context(provider.open(request, deadline, attempts))
            except WorldError as error:
                causes.append((provider.name, error))
                reason = self._give_up(provider, request, error) or reason
                continue
            return _answer(provider, stream, attempts, reason=reason)
        raise AllProvidersFailed(tuple(causes))

    def _give_up(
        self, provider: Provider, request: GenerationRequest, error: WorldError
    ) -> FallbackReason | None:
        """Report a provider's failure; returns the reason if it was Ray that failed."""
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
        self._observer.observe(
            FellBack(
                request_id=request.request_id,
                task_type=request.task_type,
                reason=reason,
                cause=error.code,
            )
        )
        return reason


def fallback_reason(error: WorldError) -> FallbackReason:
    """The published word for why Ray did not answer."""
    if isinstance(error, EmptyAnswer):
        return "empty_response"
    return "error_response" if isinstance(error, InferenceFailed) else "ray_exception"


def _answer(
    provider: Provider,
    stream: ProviderStream,
    attempts: Attempts,
    *,
    reason: FallbackReason | None,
) -> Answer:
    route = Route(
        provider=provider.name,
        endpoint=stream.endpoint,
        attempts=attempts.count,
        fallback=reason is not None,
        reason=reason,
    )
    return Answer(origin=stream.origin, route=route, chunks=stream.chunks)


def _answered(request: GenerationRequest, answer: Answer, seconds: tuple[float, float]) -> Answered:
    usage = answer.chunks.usage
    return Answered(
        request_id=request.request_id,
        task_type=request.task_type,
        provider=answer.route.provider,
        endpoint=answer.route.endpoint,
        attempts=answer.route.attempts,
        fallback=answer.route.fallback,
        reason=answer.route.reason,
        outcome=_OUTCOMES[answer.chunks.state],
        adapter_version=answer.origin.adapter_version,
        first_token_seconds=seconds[0],
        seconds=seconds[1],
        prompt_tokens=None if usage is None else usage.prompt_tokens,
        completion_tokens=None if usage is None else usage.completion_tokens,
    )
