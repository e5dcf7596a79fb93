"""The Ollama engine: converts Ollama's JSON lines to server-sent events.

Ollama cannot load monGARS' adapters, so every answer has `adapter_version: baseline` and `degraded`.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp

from mongars.core.background import Background
from mongars.core.errors import (
    EndpointUnreachable,
    GenerationInterrupted,
    InferenceFailed,
    InvalidAnswer,
    InvalidRequest,
    MongarsError,
    NotReady,
    WorldError,
)
from mongars.core.observe import Note, Observer, Silent
from mongars.core.urls import endpoint_label
from mongars.engines import log_events
from mongars.engines.engine import EngineStatus
from mongars.protocol.ollama import COMMON, LineReader, markers_in
from mongars.protocol.ollama_model import CHAT, SHOW, TAGS, OllamaModelApi, error_text
from mongars.protocol.sse import DONE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.core.clock import Clock
    from mongars.core.control_tokens import Markers
    from mongars.core.generation import GenerationRequest, Origin
    from mongars.engines.ollama.config import OllamaConfig

RETRY_AFTER = 1.0
PROBE_TIMEOUT = aiohttp.ClientTimeout(total=5)


class OllamaEngine:
    """One model on an Ollama server, over HTTP; implements `engines.engine.Engine`.

    If a connection fails or the server no longer has the model, the state is `restarting` and requests are refused
    (`NotReady`); a background task checks the server every `probe_period` seconds until it has the model again.
    `observer` receives the log events; None: they are discarded.
    """

    def __init__(
        self, config: OllamaConfig, *, clock: Clock, observer: Observer | None = None
    ) -> None:
        self._config = config
        self._clock = clock
        self._observer = observer or Silent()
        self._label = endpoint_label(config.url)
        self._model = OllamaModelApi(config.model, server=self._label)
        self._session: aiohttp.ClientSession | None = None
        self._open: set[aiohttp.ClientResponse] = set()
        self._search = Background(self._until_back, name="ollama-search")
        self._status = EngineStatus(state="stopped")
        self._markers = COMMON

    @property
    def origin(self) -> Origin:
        """The `Origin` of the answers: the model's configured name, engine `ollama`, no adapter.

        Its `degraded` is True, since Ollama cannot load the deployment's adapters.
        """
        return self._model.origin

    @property
    def continues(self) -> bool:
        """Always False: Ollama cannot continue a text."""
        return False

    @property
    def slots(self) -> int:
        """How many requests this engine sends to the Ollama server at the same time, as configured."""
        return self._config.slots

    @property
    def status(self) -> EngineStatus:
        """The engine's state, and the number of times that the server or its model was lost since the last start.

        It is `restarting` while the server does not respond or lacks the model; the engine checks it periodically
        meanwhile.
        """
        return self._status

    async def start(self) -> None:
        """Check that the server responds within 5 seconds and has the model: the configured name, case included.

        A name without a tag means the tag `latest`. Does not load the model; the server loads it for the first request.
        Raises `InferenceFailed` with the reason if the check fails; it is not repeated.
        """
        timeout = aiohttp.ClientTimeout(
            total=None,
            sock_connect=self._config.connect_timeout,
            sock_read=self._config.silence_timeout,
        )
        self._session = aiohttp.ClientSession(
            self._config.url.rstrip("/") + "/",
            connector=aiohttp.TCPConnector(limit=0),
            timeout=timeout,
            trust_env=False,
        )
        try:
            await self._probe()
        except BaseException as error:  # a cancellation must close the session, too
            await self._close_session()
            if not isinstance(error, WorldError):
                raise
            self._status = EngineStatus(state="failed", detail=str(error))
            raise InferenceFailed(str(error)) from error
        self._markers = await self._known_markers()
        self._status = EngineStatus(state="ready")

    async def aclose(self) -> None:
        """Close the connections to the server, which keeps running; open streams end with `GenerationInterrupted`."""
        # In this order: readers that lose their connection here must not start another probe.
        self._status = EngineStatus(state="stopped", restarts=self._status.restarts)
        try:
            await self._close_session()
        finally:
            await self._search.aclose()

    @asynccontextmanager
    async def stream(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[bytes]]:
        """Generate the answer to one request; a context whose value yields it as server-sent events, in bytes.

        The events are OpenAI `chat.completion.chunk` objects, then one with the token counts, then `[DONE]`; a block
        of bytes may begin or end inside an event. Leaving the context closes the connection, which makes Ollama stop
        generating.

        Entering raises `NotReady` unless the state is `ready`, `ParameterUnsupported` for a parameter that Ollama does
        not support, and `EndpointUnreachable` if the connection fails or no data arrives for the configured
        `silence_timeout` seconds. For a response with an error status it raises `NotReady` (404), `Overloaded` (429,
        503), `ContextLengthExceeded` (400, if the prompt is too long), `InvalidRequest` (400 otherwise), else
        `InferenceFailed`. Iterating raises `GenerationInterrupted` if the answer is cut.
        """
        session = self._session
        if session is None or self._status.state != "ready":
            detail = f"The engine is {self._status.state}. {self._status.detail}".rstrip()
            raise NotReady(detail, retry_after=RETRY_AFTER)
        body = self._model.chat_body(
            request, markers=self._markers, context_tokens=self._config.context_tokens
        )
        try:
            response = await session.post(CHAT, data=body)
        except (aiohttp.ClientError, OSError) as exc:
            raise self._lost(exc) from exc
        self._open.add(response)
        try:
            if session is not self._session:  # closed after the head of the response
                response.close()
            if response.status != HTTPStatus.OK:
                raise await self._refusal(response)
            yield self._events(request, response)
        finally:
            self._open.discard(response)
            response.close()

    async def _events(
        self, request: GenerationRequest, response: aiohttp.ClientResponse
    ) -> AsyncIterator[bytes]:
        lines = LineReader(
            answer_id=request.request_id,
            created=int(self._clock.now().timestamp()),
            model=self._config.model,
        )
        try:
            async for block in response.content.iter_any():
                for chunk in lines.feed(block):
                    yield chunk.raw
                if lines.done:  # an error of the connection no longer affects the answer
                    yield DONE
                    return
        except (aiohttp.ClientError, OSError) as exc:
            self._lost(exc)
            detail = "Ollama broke the connection while it was answering."
            if self._status.state == "stopped":
                detail = "The engine was stopped while it was answering."
            raise GenerationInterrupted(detail) from exc
        except (InferenceFailed, InvalidAnswer) as exc:
            raise GenerationInterrupted(str(exc)) from exc
        detail = "Ollama stopped before the answer was complete."
        raise GenerationInterrupted(detail)

    async def _probe(self) -> None:
        """Check that the Ollama server responds within 5 seconds and lists the configured model, case included.

        A name without a tag has the tag `latest`. Raises `EndpointUnreachable` if the server does not respond,
        `InvalidAnswer` for an unusable response, `NotReady` if the model is missing or this engine is closed.
        """
        if self._session is None:
            detail = "The engine is stopped."
            raise NotReady(detail)
        try:
            async with self._session.get(TAGS, timeout=PROBE_TIMEOUT) as response:
                status, data = response.status, await response.read()
        except (aiohttp.ClientError, OSError) as exc:
            raise self._unreachable(exc) from exc
        self._model.check_tags(status, data)

    async def _known_markers(self) -> Markers:
        """The texts of the model's control tokens, as the server lists them; those of common models if it does not."""
        if self._session is None:
            return COMMON
        body = self._model.show_body(verbose=True)
        try:
            async with self._session.post(SHOW, data=body, timeout=PROBE_TIMEOUT) as response:
                return await asyncio.to_thread(markers_in, await response.read())
        except (aiohttp.ClientError, OSError, InvalidAnswer):
            return COMMON

    def _unreachable(self, exc: Exception) -> EndpointUnreachable:
        detail = f"No Ollama answers at {self._label}: {_describe(exc)}."
        return EndpointUnreachable(detail)

    def _lost(self, exc: Exception) -> EndpointUnreachable:
        error = self._unreachable(exc)
        self._search_because(str(error))
        return error

    def _search_because(self, detail: str) -> None:
        if self._status.state != "ready":
            return
        restarts = self._status.restarts + 1
        self._status = EngineStatus(state="restarting", detail=detail, restarts=restarts)
        self._observer.observe(Note(log=log_events.ENGINE_LOST, values={"detail": detail}))
        self._search.start()

    async def _until_back(self) -> None:
        while self._status.state == "restarting":
            try:
                await self._probe()
            except WorldError as error:
                if self._status.state == "restarting":
                    self._status = replace(self._status, detail=str(error))
                await self._clock.sleep(self._config.probe_period)
                continue
            self._markers = await self._known_markers()
            if self._status.state == "restarting":  # not stopped meanwhile
                self._status = EngineStatus(state="ready", restarts=self._status.restarts)
                self._observer.observe(Note(log=log_events.ENGINE_FOUND))

    async def _refusal(self, response: aiohttp.ClientResponse) -> MongarsError:
        try:
            data = await response.read()
        except (aiohttp.ClientError, OSError):
            data = b""
        status, window = response.status, self._config.context_tokens or 0
        error = self._model.refusal(status, data, retry_after=RETRY_AFTER, context_tokens=window)
        if status == HTTPStatus.NOT_FOUND:
            self._search_because(str(error))
        if status == HTTPStatus.BAD_REQUEST and isinstance(error, InferenceFailed):
            return InvalidRequest(f"Ollama refuses the request: {error_text(data)}")
        return error

    async def _close_session(self) -> None:
        session, self._session = self._session, None
        # `ClientSession.close` leaves readers of a response waiting forever; closing the responses ends them.
        for response in tuple(self._open):
            response.close()
        if session is not None:
            await session.close()


def _describe(error: Exception) -> str:
    if isinstance(error, aiohttp.InvalidURL):
        return "the address cannot be used"  # its text would contain the URL with the password
    return str(error) or type(error).__name__
