"""Ollama behind the engine port: its lines become our events.

Ollama cannot load our adapters, so every answer says `adapter_version: base` and `degraded`.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
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
from mongars.engines.engine import EngineStatus
from mongars.protocol.body import encode, json_object
from mongars.protocol.ollama import (
    LineReader,
    chat_request,
    origin_named,
    overflow_in,
    same_model,
)
from mongars.protocol.sse import DONE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.core.clock import Clock
    from mongars.core.generation import GenerationRequest, Origin
    from mongars.engines.ollama.config import OllamaConfig

RETRY_AFTER = 1.0
PROBE_TIMEOUT = aiohttp.ClientTimeout(total=5)


class OllamaEngine:
    """One model on an Ollama server; see `engines.engine.Engine` for what it promises."""

    def __init__(
        self, config: OllamaConfig, *, clock: Clock, observer: Observer | None = None
    ) -> None:
        self._config = config
        self._clock = clock
        self._observer = observer or Silent()
        self._session: aiohttp.ClientSession | None = None
        self._search = Background(self._until_back, name="ollama-search")
        self._status = EngineStatus(state="stopped")

    @property
    def origin(self) -> Origin:
        """The model as it was named, without any adapter of ours."""
        return origin_named(self._config.model)

    @property
    def slots(self) -> int:
        """How many requests are sent at once."""
        return self._config.slots

    @property
    def status(self) -> EngineStatus:
        """`restarting` while the server is lost; it is looked for meanwhile."""
        return self._status

    async def start(self) -> None:
        """Find the server and the model on it. Raises `InferenceFailed` with what is missing."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._config.connect_timeout)
        self._session = aiohttp.ClientSession(
            self._config.url.rstrip("/") + "/",
            connector=aiohttp.TCPConnector(limit=0),
            timeout=timeout,
            trust_env=False,
        )
        try:
            await self._probe()
        except WorldError as error:
            await self._close_session()
            self._status = EngineStatus(state="failed", detail=str(error))
            raise InferenceFailed(str(error)) from error
        self._status = EngineStatus(state="ready")

    async def aclose(self) -> None:
        """Close the connections; the server goes on without us."""
        await self._search.aclose()
        await self._close_session()
        self._status = EngineStatus(state="stopped", restarts=self._status.restarts)

    @asynccontextmanager
    async def stream(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[bytes]]:
        """Answer one request; leaving closes the connection, on which Ollama stops."""
        if self._session is None or self._status.state != "ready":
            detail = f"The engine is {self._status.state}. {self._status.detail}".rstrip()
            raise NotReady(detail, retry_after=RETRY_AFTER)
        body = chat_request(request, model=self._config.model)
        if self._config.context_tokens is not None:
            body["options"]["num_ctx"] = self._config.context_tokens
        try:
            response = await self._session.post("api/chat", data=encode(body))
        except (aiohttp.ClientError, OSError) as exc:
            raise self._lost(exc) from exc
        try:
            if response.status != HTTPStatus.OK:
                raise await self._refusal(response)
            yield self._events(request, response)
        finally:
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
        except (aiohttp.ClientError, OSError) as exc:
            self._lost(exc)
            detail = "Ollama broke the connection while it was answering."
            raise GenerationInterrupted(detail) from exc
        except (InferenceFailed, InvalidAnswer) as exc:
            raise GenerationInterrupted(str(exc)) from exc
        if not lines.done:
            detail = "Ollama stopped before the answer was complete."
            raise GenerationInterrupted(detail)
        yield DONE

    async def _probe(self) -> None:
        found = await self._tags()
        names = [str(e.get("name")) for e in found.get("models") or () if isinstance(e, dict)]
        if not any(same_model(self._config.model, name) for name in names):
            raise NotReady(self._missing())

    async def _tags(self) -> dict[str, Any]:
        if self._session is None:
            detail = "The engine is stopped."
            raise NotReady(detail)
        try:
            async with self._session.get("api/tags", timeout=PROBE_TIMEOUT) as response:
                data = await response.read()
        except (aiohttp.ClientError, OSError) as exc:
            detail = f"No Ollama answers at {self._config.url}: {_words(exc)}."
            raise EndpointUnreachable(detail) from exc
        return json_object(data)

    def _lost(self, exc: Exception) -> EndpointUnreachable:
        detail = f"No Ollama answers at {self._config.url}: {_words(exc)}."
        if self._status.state == "ready":
            restarts = self._status.restarts + 1
            self._status = EngineStatus(state="restarting", detail=detail, restarts=restarts)
            self._observer.observe(Note(name="engine.lost", values={"detail": detail}))
            self._search.start()
        return EndpointUnreachable(detail)

    async def _until_back(self) -> None:
        while self._status.state == "restarting":
            try:
                await self._probe()
            except WorldError:
                await self._clock.sleep(self._config.probe_period)
            else:
                self._status = EngineStatus(state="ready", restarts=self._status.restarts)
                self._observer.observe(Note(name="engine.found"))

    async def _refusal(self, response: aiohttp.ClientResponse) -> MongarsError:
        try:
            told = str(json_object(await response.read()).get("error") or "")
        except (InvalidAnswer, aiohttp.ClientError, OSError):
            told = ""
        match response.status:
            case HTTPStatus.NOT_FOUND:
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
        if session is not None:
            await session.close()


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
