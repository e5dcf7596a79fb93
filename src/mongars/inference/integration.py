"""`LLMIntegration`: the interface through which the application generates text with language models."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from mongars.core.deadline import Deadline
from mongars.core.errors import NotFound
from mongars.core.generation import Sampling
from mongars.core.observe import Note
from mongars.inference import log_events
from mongars.inference.background_work import BackgroundWork
from mongars.inference.caching.coalescing import CoalescingCache
from mongars.inference.chain import ProviderChain
from mongars.inference.events import ray_event
from mongars.inference.prompt_response import prompt_request, resolved_task_type, response_dict
from mongars.protocol.accumulate import AnswerAccumulator

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from mongars.core.clock import Clock
    from mongars.core.generation import Chunk, Completion, GenerationRequest
    from mongars.core.observe import LogEvent, Observer
    from mongars.inference.chain import AnswerStream
    from mongars.inference.config import InferenceConfig
    from mongars.inference.provider import Provider, ProviderStatus, Route


class LLMIntegration:
    """Generates answers with Ray Serve and, when Ray fails, with local providers (Ollama, embedded engine).

    Use it as an async context manager, once per process: while entered, it holds connections, probes endpoints and
    starts and stops the embedded engines; leaving closes them all. Failures are raised as exceptions, never returned as
    text.
    """

    def __init__(
        self,
        config: InferenceConfig,
        providers: tuple[Provider, ...],
        *,
        clock: Clock,
        observer: Observer,
    ) -> None:
        self._config = config
        self._providers = providers
        self._clock = clock
        self._observer = observer
        chain = ProviderChain(providers, observer=observer, cure=config.no_fallback)
        self._answers = (
            CoalescingCache(
                chain, config, clock=clock, observer=observer, preferred=providers[0].name
            )
            if config.answer_cache_bytes
            else chain
        )
        self._work = BackgroundWork(providers, clock=clock, observer=observer)
        observer.observe(ray_event(config))

    async def __aenter__(self) -> Self:
        await self._work.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._work.__aexit__()

    def open(
        self, request: GenerationRequest, *, deadline: Deadline | None = None
    ) -> AbstractAsyncContextManager[AnswerStream]:
        """Context manager for a started answer; entered when its first content has arrived. Exit stops the generation.

        `deadline`: the time by which the answer must be complete; None: `total_timeout` seconds from now. Entering
        raises a `CallerError` if the request is wrong, or `AllProvidersFailed`, also if the deadline passes first.
        Iterating over the answer raises `GenerationInterrupted` if its stream breaks or the deadline passes.
        """
        limit = deadline or Deadline.after(self._clock, self._config.total_timeout)
        return self._answers.open(request, limit)

    async def generate(
        self, request: GenerationRequest, *, deadline: Deadline | None = None
    ) -> tuple[Completion, Route]:
        """Generate a complete answer, and return it with its route (provider, endpoint, number of attempts).

        `deadline`: the time by which the answer must be complete; None: `total_timeout` seconds from now. Raises a
        `CallerError` if the request is wrong, `AllProvidersFailed` if no provider started an answer in time, or
        `GenerationInterrupted` if the answer was started but not completed in time.
        """
        accumulated = AnswerAccumulator(request.sampling.n)
        async with self.open(request, deadline=deadline) as answer:
            async for chunk in answer:
                accumulated.add(chunk)
            return accumulated.completion(answer.origin), answer.route

    async def generate_response(
        self,
        prompt: str,
        task_type: str = "general",
        *,
        session_id: str | None = None,
        max_tokens: int | None = None,
        response_hints: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Answer one prompt, and return a dictionary.

        Keys: `text`, `confidence` (exponential of the mean token log-probability, or None), `tokens_used` (completion
        tokens counted by the engine, or None), `source` (provider name), `adapter_version`, `usage` (OpenAI's object,
        or None), `request_id`. `task_type`: `code`, `coding` or `developer` selects the model for code, any other text
        the general one. `response_hints`: with a true value at `reasoning`, the task type `general` becomes
        `reasoning`; its other keys are ignored. `session_id`: requests with the same one prefer the same endpoint.
        `max_tokens` None: the configured default. Raises `PromptMissing` if `prompt` is blank, another `CallerError`
        if the request is wrong, `AllProvidersFailed` if no provider started an answer, or `GenerationInterrupted` if
        it was not completed within `total_timeout` seconds.
        """
        request = prompt_request(
            prompt,
            resolved_task_type(task_type, response_hints),
            session_id=session_id,
            sampling=Sampling(max_tokens=max_tokens, logprobs=True),
        )
        completion, route = await self.generate(request)
        return response_dict(completion, route, request_id=request.request_id)

    async def stream_response(
        self,
        prompt: str,
        task_type: str = "general",
        *,
        session_id: str | None = None,
        max_tokens: int | None = None,
    ) -> AsyncGenerator[Chunk, None]:
        """Answer one prompt as a stream of chunks.

        `task_type`: `code`, `coding` or `developer` selects the model for code, any other text the general one.
        `session_id`: requests with the same one prefer the same endpoint. `max_tokens` None: the configured default.
        Close the iterator (`contextlib.aclosing`) to stop early. Iteration raises `PromptMissing` if `prompt` is
        blank, another `CallerError` if the request is wrong, `AllProvidersFailed` if no provider started an answer, or
        `GenerationInterrupted` if the stream breaks or is not complete within `total_timeout` seconds.
        """
        sampling = Sampling(max_tokens=max_tokens)
        request = prompt_request(prompt, task_type, session_id=session_id, sampling=sampling)
        async with self.open(request) as answer:
            async for chunk in answer:
                yield chunk

    def drain(self, endpoint_id: str) -> None:
        """Send no further requests to the Ray endpoint `endpoint_id`, such as `ray-1`, until `reset`.

        Requests in flight continue. The setting is lost when this process ends. Raises `NotFound` for an unknown id.
        """
        self._control(
            endpoint_id, log_events.RAY_ENDPOINT_DRAINED, [p.drain for p in self._providers]
        )

    def reset(self, endpoint_id: str) -> None:
        """Forget failures, waits and latency of the Ray endpoint `endpoint_id`, such as `ray-1`, and use it again.

        This also ends `drain`. Raises `NotFound` for an unknown id.
        """
        self._control(
            endpoint_id, log_events.RAY_ENDPOINT_RESET, [p.reset for p in self._providers]
        )

    def _control(
        self, endpoint_id: str, log: LogEvent, methods: Sequence[Callable[[str], bool]]
    ) -> None:
        if not any(method(endpoint_id) for method in methods):
            detail = f"There is no endpoint {endpoint_id!r}; see GET /internal/endpoints."
            raise NotFound(detail)
        self._observer.observe(Note(log=log, values={"endpoint": endpoint_id}))

    async def status(self) -> tuple[ProviderStatus, ...]:
        """The status of every provider, in order of preference; servers are probed, for two seconds at most."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(provider.status()) for provider in self._providers]
        return tuple(task.result() for task in tasks)
