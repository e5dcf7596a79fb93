"""The chain of providers: a request is sent to one provider after the other until one starts an answer.

A `CallerError` ends the chain, because the request itself is wrong, with two exceptions: a prompt that
is too long is sent to a provider with a larger context window, and a request with a parameter that one
provider does not support is sent to the next one. Neither counts as a fallback, because nothing has failed.

A fallback before the first content token is invisible to the client. After it, an answer whose stream broke
is completed by another provider only if the new text verifiably continues the delivered text
(`inference.streams.continuation`); otherwise `GenerationInterrupted` is raised.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongars.core.errors import (
    AdapterUnavailable,
    AdapterUnknown,
    AllProvidersFailed,
    ConfigurationError,
    ContextLengthExceeded,
    GenerationInterrupted,
    MongarsError,
    ParameterUnsupported,
    WorldError,
)
from mongars.core.generation import PartialAnswer
from mongars.inference.context_overflow import fits_context, with_prompt_size
from mongars.inference.events import (
    Answered,
    FallbackReason,
    LargerContext,
    Moved,
    Outcome,
)
from mongars.inference.provider import Attempts, Route, StreamState
from mongars.inference.request_report import RequestReport
from mongars.inference.streams.continuation import (
    FailoverChunks,
    Resumed,
    can_fail_over,
    resume_prefix,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from mongars.core.deadline import Deadline
    from mongars.core.generation import GenerationRequest, Origin
    from mongars.core.observe import Observer
    from mongars.inference.provider import AnswerChunks, CacheUse, Provider, ProviderStream
    from mongars.inference.streams.continuation import Reopen

_OUTCOMES: dict[StreamState, Outcome] = {
    "complete": "success",
    "cut": "error",
    "open": "cancelled",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerStream:
    """A started answer; iterate over it asynchronously to receive its chunks.

    Iteration raises `GenerationInterrupted` if the stream breaks before the answer is complete and cannot be continued
    elsewhere, or `InvalidRequest` if the engine reports the request as wrong; if it ends without an exception, the
    answer is complete.
    """

    chunks: AnswerChunks

    @property
    def route(self) -> Route:
        """Provider and endpoint that generate the answer now, and the number of attempts so far.

        They change if the stream breaks and another provider or endpoint continues the answer.
        """
        return self.chunks.route

    @property
    def origin(self) -> Origin:
        """Model, engine, adapter and replica that generate the answer now.

        They change if the stream breaks and another provider or endpoint continues the answer.
        """
        return self.chunks.origin

    def __aiter__(self) -> AnswerChunks:
        return self.chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One request in the chain, with its deadline and the count of attempts at all providers.

    `report` emits its events. `cache`: how the answer cache treats it, None if not at all; copied to the answer's
    route.
    """

    request: GenerationRequest
    deadline: Deadline
    attempts: Attempts
    report: RequestReport
    cache: CacheUse | None

    def open(self, provider: Provider) -> AbstractAsyncContextManager[ProviderStream]:
        """Context manager that sends this request to `provider`; entered once the answer's first content has arrived.

        Entering raises a `CallerError` if the request itself is wrong, a `WorldError` if the provider failed or the
        deadline passed.
        """
        return provider.open(self.request, self.deadline, self.attempts)

    def provider_failed(self, provider: Provider, error: MongarsError) -> FallbackReason | None:
        """Emit the event that `provider` failed with `error`: `LocalFailed` if it is local, else `FellBack`.

        Returns the reason of the fallback, a label in metrics and logs; None for a local provider, whose failure is no
        fallback. Nothing is emitted for Ray if the request's deadline has passed, since nothing is tried instead.
        """
        if not provider.local and self.deadline.expired():
            return None  # no other provider is tried
        return self.report.provider_failed(provider.name, error, local=provider.local)

    def with_prompt_size(self, error: ContextLengthExceeded) -> _Call:
        """A copy whose request has `prompt_tokens` set to the size of the prompt that `error` reports.

        If `error` reports none, it is the number of bytes of the prompt. With it, a provider whose context window is
        large enough can be chosen.
        """
        return dataclasses.replace(self, request=with_prompt_size(self.request, error))


class ProviderChain:
    """Sends each request to one provider after the other, in order of preference, until one starts an answer."""

    def __init__(
        self, providers: tuple[Provider, ...], *, observer: Observer, cure: str = ""
    ) -> None:
        """`providers`: in order of preference. Raises `ConfigurationError` if it is empty.

        `observer` receives the events. `cure`: text on what an operator can do if all providers fail, appended to the
        error message.
        """
        if not providers:
            detail = "No provider can answer: configure RAY_SERVE_URL or a local model."
            raise ConfigurationError(detail)
        self._providers = providers
        self._local = frozenset(provider.name for provider in providers if provider.local)
        self._observer = observer
        self._cure = cure

    @asynccontextmanager
    async def open(
        self, request: GenerationRequest, deadline: Deadline, *, cache: CacheUse | None = None
    ) -> AsyncIterator[AnswerStream]:
        """Context manager of a started answer, by the first provider that starts one; leaving it stops the generation.

        `cache`: how the answer cache treats this request, None if not at all; copied to the answer's `Route.cache`,
        without other effect. Entering raises a `CallerError` if the request is wrong, which is `AdapterUnknown` if every
        provider tried lacks the adapter that it demands; or else `AllProvidersFailed`, which contains the error of each
        provider tried, also if `deadline` passes before an answer starts. If it passes later, iteration raises
        `GenerationInterrupted`.
        """
        report = RequestReport(
            self._observer,
            deadline.clock,
            request_id=request.request_id,
            task_type=request.task_type,
        )
        call = _Call(
            request=request,
            deadline=deadline,
            attempts=Attempts(deadline.clock),
            report=report,
            cache=cache,
        )
        async with AsyncExitStack() as ends:
            stack = AsyncExitStack()
            try:
                answer = await self._start(call, stack)
            except AllProvidersFailed as error:
                report.unanswered(error)
                raise
            except asyncio.CancelledError:
                report.cancelled()
                raise
            first_token_seconds = report.seconds()
            ends.push_async_exit(answer.chunks.release)
            try:
                yield answer
            finally:
                reason = answer.route.reason
                ended = answer.chunks.state == "complete"
                if ended and reason is not None:  # a no-op unless only the stream was cut at Ray
                    report.fell_back(reason, cause=GenerationInterrupted.code)
                seconds = (first_token_seconds, report.seconds())
                self._observer.observe(answered(request, answer, seconds))

    async def _start(self, call: _Call, stack: AsyncExitStack) -> AnswerStream:
        causes: list[tuple[str, WorldError]] = []
        unsupported: ParameterUnsupported | None = None
        reason: FallbackReason | None = None
        for index, provider in enumerate(self._providers):
            if causes and call.deadline.expired():
                break
            try:
                stream = await stack.enter_async_context(call.open(provider))
            except ContextLengthExceeded as error:
                if not call.request.shortens:
                    rest = self._providers[
                        index:
                    ]  # includes this provider: with the size known, it may load a larger window
                    larger = self._begin_with_larger_context(
                        call.with_prompt_size(error), stack, rest, reason=reason
                    )
                    answer = await larger
                    if answer is not None:
                        self._observer.observe(_larger_context(call.request, answer.route, error))
                        return answer
                raise
            except ParameterUnsupported as error:
                unsupported = error
                continue
            except WorldError as error:
                causes.append((provider.name, error))
                reason = call.provider_failed(provider, error) or reason
                continue
            route = _route(provider, stream, call, reason=reason)
            failover = self._failover(call, route, among=self._providers)
            return AnswerStream(chunks=FailoverChunks(stream, stack, failover, route=route))
        if unsupported is not None and not causes:
            raise unsupported
        if causes and all(isinstance(error, AdapterUnavailable) for _, error in causes):
            raise AdapterUnknown(str(causes[0][1]), param="adapter")
        raise AllProvidersFailed(tuple(causes), cure=self._cure)

    async def _begin_with_larger_context(
        self,
        call: _Call,
        stack: AsyncExitStack,
        providers: Sequence[Provider],
        *,
        reason: FallbackReason | None,
    ) -> AnswerStream | None:
        """The answer of the first provider whose reported context window holds the prompt; None if none starts one.

        `stack` keeps the provider's stream open. `reason`: why Ray failed before, None if it did not; it is copied to
        the answer's route. Errors of these providers are emitted as events and not raised.
        """
        for provider in providers:
            if call.deadline.expired():
                break
            if not await fits_context(provider, call.request):
                continue
            try:
                stream = await stack.enter_async_context(call.open(provider))
            except MongarsError as error:
                call.provider_failed(provider, error)
                continue
            route = _route(provider, stream, call, reason=reason)
            failover = self._failover(call, route, among=(provider,))
            return AnswerStream(chunks=FailoverChunks(stream, stack, failover, route=route))
        return None

    def _failover(self, call: _Call, first: Route, *, among: Sequence[Provider]) -> Reopen | None:
        """A function that continues a broken answer at one of the providers in `among`, tried in this order.

        `first`: the route of the provider that started the answer; that provider is tried once more at most. The
        function is called with the text delivered so far, the origin of the answer and an exit stack, and returns the
        stream that goes on (`Resumed`), or None if no provider can continue. In place of a function, the result is
        None for a request for several choices or with a response format: answers to it are never continued.
        """
        given = Counter([first.provider])
        request, deadline = call.request, call.deadline
        if not can_fail_over(request):
            return None

        async def reopen(delivered: str, origin: Origin, stack: AsyncExitStack) -> Resumed | None:
            started = PartialAnswer(
                text=resume_prefix(delivered, request.sampling.stop),
                model=origin.model,
                adapter_version=origin.adapter_version,
                adapter_digest=origin.adapter_digest,
            )
            continued = dataclasses.replace(
                call, request=dataclasses.replace(request, continue_from=started)
            )
            for provider in among:
                if deadline.expired():
                    break
                if given[provider.name] > 1:
                    continue  # cut twice there: a third attempt would probably be cut too
                try:
                    stream = await stack.enter_async_context(continued.open(provider))
                except MongarsError as error:
                    call.provider_failed(provider, error)
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
                left_remote = first.provider not in self._local and provider.local
                reason = "ray_exception" if left_remote else first.reason
                return Resumed(
                    stream=stream,
                    route=_route(provider, stream, call, reason=reason),
                    known=delivered[len(started.text) :] if stream.continued else delivered,
                )
            return None

        return reopen


def _route(
    provider: Provider, stream: ProviderStream, call: _Call, *, reason: FallbackReason | None
) -> Route:
    return Route(
        provider=provider.name,
        endpoint=stream.endpoint,
        attempts=call.attempts.count,
        fallback=reason is not None,
        reason=reason,
        cache=call.cache,
        waited=call.attempts.waited,
    )


def _larger_context(
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


def answered(
    request: GenerationRequest, answer: AnswerStream, seconds: tuple[float, float]
) -> Answered:
    """The event that records the end of `answer`, with its outcome, times and token counts.

    `seconds`: two times since processing of the request began, the first until the first content, the second until the
    end.
    """
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


def _outcome(answer: AnswerStream) -> Outcome:
    outcome = _OUTCOMES[answer.chunks.state]
    return "fallback" if outcome == "success" and answer.route.fallback else outcome
