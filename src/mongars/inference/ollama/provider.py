"""The Ollama provider: answers streamed from the chat API of an Ollama server."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from mongars.core.adapter_pin import AdapterPin
from mongars.core.errors import (
    AdapterUnavailable,
    ConfigurationError,
    DeadlineExceeded,
    EndpointUnreachable,
    InvalidAnswer,
    MongarsError,
    ParameterUnsupported,
    WorldError,
)
from mongars.core.ids import new_id
from mongars.inference.events import split_label
from mongars.inference.ollama.line_decoder import OllamaDecoder
from mongars.inference.provider import Attempts, ProviderName, ProviderStatus, ProviderStream
from mongars.inference.retry.retry_after import retry_after
from mongars.inference.streams.reader import AnswerReader
from mongars.protocol.body import json_object
from mongars.protocol.ollama import COMMON, markers_in, window_in
from mongars.protocol.ollama_model import CHAT, SHOW, TAGS, OllamaModelApi
from mongars.protocol.response_format import schema_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from mongars.core.clock import Clock
    from mongars.core.control_tokens import Markers
    from mongars.core.deadline import Deadline
    from mongars.core.generation import GenerationRequest
    from mongars.inference.config import InferenceConfig
    from mongars.inference.http.http_pool import HttpPool, UpstreamResponse

STATUS_SECONDS = 1.5
DEFAULT_ANSWER_TOKENS = 1024
"""Tokens reserved in the context window for the answer to a request without `max_tokens`."""
_MAY_BE_MARKER = re.compile(r"[<>\[\]{}|\uff5c]")
"""Matches a character that occurs in every known control token."""
_OK = 200


class Ollama:
    """The provider that generates with the configured model on the Ollama server at `OLLAMA_HOST`."""

    name: ProviderName = "ollama"
    local = True

    def __init__(self, config: InferenceConfig, http: HttpPool, *, clock: Clock) -> None:
        if config.ollama_host is None or config.ollama_model is None:
            detail = "Ollama needs both a host (OLLAMA_HOST) and a model."
            raise ConfigurationError(detail)
        self._config = config
        self._host = config.ollama_host.rstrip("/")
        self._label = split_label(self._host)[0]
        self._model = OllamaModelApi(config.ollama_model, server=self._label)
        self._http = http
        self._clock = clock
        self._window: int | None = None
        self._markers: Markers | None = None
        """The model's control tokens; None until they have been requested from the server."""

    @asynccontextmanager
    async def open(
        self, request: GenerationRequest, deadline: Deadline, attempts: Attempts
    ) -> AsyncIterator[ProviderStream]:
        """Context manager of a started answer; entered once its first content has arrived. Exit stops the generation.

        `deadline`: the time by which the answer must be complete; `attempts` counts the request. Entering raises
        `ParameterUnsupported` for a request for several choices, `AdapterUnavailable` for one that demands an adapter,
        `NotReady` if the server does not have the model, `DeadlineExceeded` if no answer starts in time,
        `ContextLengthExceeded` for a prompt that does not fit the context window the server has loaded, or another
        `MongarsError` if the server fails. If the deadline passes later, iteration raises `GenerationInterrupted`.
        """
        if request.sampling.n > 1:
            raise ParameterUnsupported.by(engine=self.name, param="n")
        if request.adapter is not None and not AdapterPin.parse(request.adapter).is_base:
            detail = f"Ollama has no adapter {request.adapter!r}; it serves the base model only."
            raise AdapterUnavailable(detail)
        seconds = self._config.local_start_by(request, deadline).remaining()
        async with AsyncExitStack() as stack:
            attempts.add()
            try:
                with attempts.waiting():
                    async with asyncio.timeout(seconds):
                        markers = await self._known_markers(request)
                        response = await stack.enter_async_context(self._post(request, markers))
                        reader = await self._begin(response, request, deadline)
            except TimeoutError as exc:
                detail = f"Ollama at {self._label} started no answer within {seconds:.3g} s."
                raise DeadlineExceeded(detail) from exc
            yield ProviderStream(origin=reader.origin, endpoint=self._label, chunks=reader)
            response.reusable = reader.state == "complete"

    async def context_tokens(self) -> int | None:
        """The model's maximum context window in tokens; None if the server does not report it within 1.5 s.

        Each call requests it from the server until it has been reported; then it is remembered.
        """
        if self._window is None:
            with contextlib.suppress(TimeoutError, WorldError):
                async with asyncio.timeout(STATUS_SECONDS):
                    self._window = window_in(json_object(await self._shown(verbose=False)))
        return self._window

    async def _known_markers(self, request: GenerationRequest) -> Markers:
        """The model's control tokens, such as `<|im_end|>`; a common set while the server has reported none.

        They are requested from the server when a message contains one of the characters `<>[]{}|` or the fullwidth
        bar, and remembered once the server has reported them; a failure of that request is ignored.
        """
        needed = any(_MAY_BE_MARKER.search(message.content) for message in request.messages)
        if self._markers is None and needed:
            with contextlib.suppress(TimeoutError, WorldError):
                async with asyncio.timeout(STATUS_SECONDS):
                    shown = await self._shown(verbose=True)
                    self._markers = await asyncio.to_thread(markers_in, shown)
        return self._markers or COMMON

    async def run(self) -> None:
        """Return at once: this provider has no background work."""

    async def status(self) -> ProviderStatus:
        """The state `up` if the server responds within 1.5 s and has the model, else `down`; `detail` says why."""
        try:
            status, body = await self._http.get(f"{self._host}/{TAGS}", seconds=STATUS_SECONDS)
            self._model.check_tags(status, body)
        except WorldError as error:
            return ProviderStatus(name=self.name, state="down", detail=str(error))
        detail = f"{self._model.name} is available"
        return ProviderStatus(name=self.name, state="up", detail=detail)

    def drain(self, endpoint_id: str) -> bool:  # noqa: ARG002 (the port's signature)
        """Always False: this provider has no endpoints to drain."""
        return False

    def reset(self, endpoint_id: str) -> bool:  # noqa: ARG002 (the port's signature)
        """Always False: this provider has no endpoints to reset."""
        return False

    async def aclose(self) -> None:
        """Close the connections of the HTTP pool, which the Ray and Ollama providers share. Safe to call twice."""
        await self._http.aclose()

    def _post(
        self, request: GenerationRequest, markers: Markers
    ) -> AbstractAsyncContextManager[UpstreamResponse]:
        sampling = request.sampling.with_defaults(self._config.sampling)
        complete = dataclasses.replace(request, sampling=sampling)
        room = None
        if request.prompt_tokens is not None:
            answer = sampling.max_tokens or DEFAULT_ANSWER_TOKENS
            room = _window_for(request.prompt_tokens, answer, self._window)
        body = self._model.chat_body(complete, markers=markers, context_tokens=room)
        return self._http.post(f"{self._host}/{CHAT}", body, {})

    async def _shown(self, *, verbose: bool) -> bytes:
        """The server's description of the model, as undecoded JSON; with the vocabulary if `verbose`.

        Raises `NotReady` if the server responds with an error, as it does for a model that it does not have,
        `EndpointUnreachable` if there is no connection or it breaks, and `InvalidAnswer` if the response is not HTTP or
        too large. There is no time limit, except for connecting.
        """
        body = self._model.show_body(verbose=verbose)
        async with self._http.post(f"{self._host}/{SHOW}", body, {}) as response:
            shown = await response.body()
            response.reusable = True
            if response.status != _OK:
                raise self._model.missing()
            return shown

    async def _begin(
        self, response: UpstreamResponse, request: GenerationRequest, deadline: Deadline
    ) -> AnswerReader:
        if response.status != _OK:
            raise await self._refusal(response)
        created = int(self._clock.now().timestamp())
        decoder = OllamaDecoder(
            answer_id=new_id("chatcmpl"),
            created=created,
            model=self._model.name,
            schema=schema_of(request.sampling.response_format),
        )
        reader = AnswerReader(
            response.blocks,
            decoder,
            origin=self._model.origin,
            idle=self._config.idle_timeout,
            deadline=deadline,
        )
        await reader.commit()
        return reader

    async def _refusal(self, response: UpstreamResponse) -> MongarsError:
        try:
            data = await response.body()
        except (InvalidAnswer, EndpointUnreachable):
            data = b""
        maximum = self._config.retry_after_max
        wait = retry_after(response.headers, now=self._clock.now(), maximum=maximum)
        return self._model.refusal(response.status, data, retry_after=wait)


def _window_for(prompt: int, answer: int, window: int | None) -> int:
    """Size in tokens of the context window to request for a prompt and an answer of these sizes in tokens.

    25 % are added for differences of tokenizers, and the size is rounded up to a power of two, because Ollama reloads
    the model whenever it changes. `window`: the model's maximum, which bounds it; None if unknown.
    """
    needed = (prompt + answer) * 5 // 4
    size = 1 << (needed - 1).bit_length()
    return size if window is None else min(size, window)
