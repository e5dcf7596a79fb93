"""Ollama as an engine: converts its JSON lines to server-sent events.

Ollama cannot load our adapters, so every answer has `adapter_version: baseline` and `degraded`.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

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
    Overloaded,
    WorldError,
)
from mongars.core.observe import Note, Observer, Silent
from mongars.core.urls import endpoint_label
from mongars.engines import log_events
from mongars.engines.engine import EngineStatus
from mongars.protocol.body import encode, json_object
from mongars.protocol.ollama import (
    COMMON,
    LineReader,
    chat_request,
    markers_in,
    origin_named,
    overflow_in,
    same_model,
)
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
    """One model on an Ollama server; implements `engines.engine.Engine`."""

    def __init__(
        self, config: OllamaConfig, *, clock: Clock, observer: Observer | None = None
    ) -> None:
        self._config = config
        self._clock = clock
        self._observer = observer or Silent()
        self._label = endpoint_label(config.url)
        self._session: aiohttp.ClientSession | None = None
        self._open: set[aiohttp.ClientResponse] = set()
        self._search = Background(self._until_back, name="ollama-search")
        self._status = EngineStatus(state="stopped")
        self._markers = COMMON

    @property
    def origin(self) -> Origin:
        """The model as it was named, without an adapter."""
        return origin_named(self._config.model)

    @property
    def continues(self) -> bool:
        """False: Ollama cannot continue a text."""
        return False

    @property
    def slots(self) -> int:
        """How many requests are sent at the same time."""
        return self._config.slots

    @property
    def status(self) -> EngineStatus:
        """`restarting` while the server cannot be reached and is tried again."""
        return self._status

    async def start(self) -> None:
        """Check that the server has the model. Raises `InferenceFailed` with what is missing."""
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
        """Close the connections; the server keeps running."""
        # In this order: readers that lose their connection here must not start another probe.
        self._status = EngineStatus(state="stopped", restarts=self._status.restarts)
        try:
            await self._close_session()
        finally:
            await self._search.aclose()

    @asynccontextmanager
    async def stream(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[bytes]]:
        """Answer one request; leaving closes the connection, and Ollama stops generating."""
        session = self._session
        if session is None or self._status.state != "ready":
            detail = f"The engine is {self._status.state}. {self._status.detail}".rstrip()
            raise NotReady(detail, retry_after=RETRY_AFTER)
        body = chat_request(request, model=self._config.model, markers=self._markers)
        if self._config.context_tokens is not None:
            body["options"]["num_ctx"] = self._config.context_tokens
        try:
            response = await session.post("api/chat", data=encode(body))
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
        entries = await self._tags()
        names = [str(entry.get("name")) for entry in entries if isinstance(entry, dict)]
        if not any(same_model(self._config.model, name) for name in names):
            raise NotReady(self._missing())

    async def _known_markers(self) -> Markers:
        """The control tokens of the model; the common ones if the server does not list its own."""
        if self._session is None:
            return COMMON
        order = encode({"model": self._config.model, "verbose": True})
        try:
            async with self._session.post("api/show", data=order, timeout=PROBE_TIMEOUT) as answer:
                return await asyncio.to_thread(markers_in, await answer.read())
        except (aiohttp.ClientError, OSError, InvalidAnswer):
            return COMMON

    async def _tags(self) -> list[Any]:
        if self._session is None:
            detail = "The engine is stopped."
            raise NotReady(detail)
        try:
            async with self._session.get("api/tags", timeout=PROBE_TIMEOUT) as response:
                status, data = response.status, await response.read()
        except (aiohttp.ClientError, OSError) as exc:
            raise self._unreachable(exc) from exc
        return self._entries(status, data)

    def _entries(self, status: int, data: bytes) -> list[Any]:
        """The models in a response of `/api/tags`. Raises `InvalidAnswer` for a malformed one."""
        detail = f"What answers at {self._label} (status {status}) is not an Ollama."
        try:
            found = json_object(data)
        except InvalidAnswer as exc:
            raise InvalidAnswer(detail) from exc
        entries = found.get("models", ...)
        if entries is None:  # some versions send null for an empty list
            entries = []
        if status != HTTPStatus.OK or not isinstance(entries, list):
            raise InvalidAnswer(detail)
        return entries

    def _unreachable(self, exc: Exception) -> EndpointUnreachable:
        detail = f"No Ollama answers at {self._label}: {_words(exc)}."
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
            told = str(json_object(await response.read()).get("error") or "")
        except (InvalidAnswer, aiohttp.ClientError, OSError):
            told = ""
        match response.status:
            case HTTPStatus.NOT_FOUND:
                self._search_because(self._missing())
                return NotReady(self._missing(), retry_after=RETRY_AFTER)
            case HTTPStatus.TOO_MANY_REQUESTS | HTTPStatus.SERVICE_UNAVAILABLE:
                return Overloaded(f"Ollama is busy: {told}", retry_after=RETRY_AFTER)
            case HTTPStatus.BAD_REQUEST:
                overflow = overflow_in(told, context_tokens=self._config.context_tokens or 0)
                return overflow or InvalidRequest(f"Ollama refuses the request: {told}")
        return InferenceFailed(f"Ollama answered {response.status}: {told}")

    def _missing(self) -> str:
        model = self._config.model
        return f"Ollama has no model {model!r}. Get it with: ollama pull {model}"

    async def _close_session(self) -> None:
        session, self._session = self._session, None
        # `ClientSession.close` leaves readers of a response waiting without end; this ends them.
        for response in tuple(self._open):
            response.close()
        if session is not None:
            await session.close()


def _words(error: Exception) -> str:
    if isinstance(error, aiohttp.InvalidURL):
        return "the address cannot be used"  # its text would contain the URL with the password
    return str(error) or type(error).__name__
