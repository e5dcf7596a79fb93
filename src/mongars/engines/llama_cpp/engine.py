"""llama.cpp as an engine: HTTP to a child process, watched and restarted when it dies."""

from __future__ import annotations

import contextlib
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp
import orjson

from mongars.core.background import Background
from mongars.core.errors import (
    ContextLengthExceeded,
    GenerationInterrupted,
    InferenceFailed,
    InvalidRequest,
    MongarsError,
    NotReady,
)
from mongars.core.generation import Origin
from mongars.core.observe import Note, Observer, Silent
from mongars.engines.chat import chat_body
from mongars.engines.engine import EngineStatus
from mongars.engines.llama_cpp.process import LlamaCppProcess
from mongars.protocol.body import encode
from mongars.protocol.sse import DONE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.core.clock import Clock
    from mongars.core.generation import GenerationRequest
    from mongars.engines.llama_cpp.config import LlamaCppConfig

RESTART_PAUSE = (0.0, 0.5, 1.0, 2.0, 5.0)
"""Seconds before each restart in a row; the last one repeats."""
GIVE_UP_AFTER = 8
"""Failed restarts in a row; then the engine is `failed`, and whoever runs it must decide."""
STABLE_AFTER = 30.0
"""Seconds of life after which a death counts as the first again."""
RETRY_AFTER = 1.0


class LlamaCppEngine:
    """One model in one child process; see `engines.engine.Engine` for what it promises."""

    def __init__(
        self, config: LlamaCppConfig, *, clock: Clock, observer: Observer | None = None
    ) -> None:
        self._config = config
        self._clock = clock
        self._observer = observer or Silent()
        self._child: LlamaCppProcess | None = None
        self._session: aiohttp.ClientSession | None = None
        self._watch = Background(self._watch_child, name="llama-cpp-watch")
        self._status = EngineStatus(state="stopped")

    @property
    def origin(self) -> Origin:
        """The bare base model."""
        return Origin(model=self._config.model_name, engine="llama_cpp")

    @property
    def slots(self) -> int:
        """How many requests are worked on at once."""
        return self._config.slots

    @property
    def status(self) -> EngineStatus:
        """State, restarts and process id."""
        return self._status

    async def start(self) -> None:
        """Load the model. Raises `InferenceFailed` with the engine's own words if it cannot."""
        self._status = EngineStatus(state="starting")
        try:
            await self._spawn()
        except InferenceFailed as error:
            self._status = EngineStatus(state="failed", detail=str(error))
            raise
        self._watch.start()

    async def aclose(self) -> None:
        """Kill the child; nothing of it is left afterwards."""
        await self._watch.aclose()
        await self._drop_child()
        self._status = EngineStatus(state="stopped", restarts=self._status.restarts)

    @asynccontextmanager
    async def stream(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[bytes]]:
        """Answer one request; leaving the context closes the connection, which frees the slot."""
        if self._session is None or self._status.state != "ready":
            detail = f"The engine is {self._status.state}."
            raise NotReady(detail, retry_after=RETRY_AFTER)
        body = chat_body(request, model=self._config.model_name)
        # Progress events make llama.cpp write, and so notice a closed connection, between the
        # batches of a long prompt; without them it looks once a second.
        body["return_progress"] = True
        try:
            response = await self._session.post("/v1/chat/completions", data=encode(body))
        except (aiohttp.ClientError, OSError) as exc:
            detail = f"The engine broke the connection: {exc}"
            raise InferenceFailed(detail) from exc
        try:
            if response.status != HTTPStatus.OK:
                raise await _error_of(response)
            yield _relay(response)
        finally:
            response.close()

    async def _spawn(self) -> None:
        child = await LlamaCppProcess.spawn(self._config)
        self._child = child
        self._session = aiohttp.ClientSession(
            "http://engine",
            # The engine drops idle connections at will: a fresh one costs microseconds here.
            connector=aiohttp.UnixConnector(str(child.socket_path), limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None),
            headers={
                "Authorization": f"Bearer {child.api_key}",
                "Content-Type": "application/json",
            },
        )
        self._status = EngineStatus(state="ready", restarts=self._status.restarts, pid=child.pid)

    async def _drop_child(self) -> None:
        session, self._session = self._session, None
        child, self._child = self._child, None
        if session is not None:
            await session.close()
        if child is not None:
            await child.aclose()

    async def _watch_child(self) -> None:
        deaths = 0
        while self._child is not None and self._status.state != "failed":
            born = self._clock.monotonic()
            code = await self._child.wait()
            deaths = 1 if self._clock.monotonic() - born > STABLE_AFTER else deaths + 1
            last_words = self._child.last_words()
            self._say("engine.died", exit_code=code, last_words=last_words)
            await self._drop_child()
            deaths = await self._revive(deaths, last_words)

    async def _revive(self, deaths: int, reason: str) -> int:
        restarts = self._status.restarts
        while self._child is None:
            if deaths > GIVE_UP_AFTER:
                self._status = EngineStatus(state="failed", detail=reason, restarts=restarts)
                self._say("engine.failed", detail=reason)
                return deaths
            restarts += 1
            self._status = EngineStatus(state="restarting", detail=reason, restarts=restarts)
            await self._clock.sleep(RESTART_PAUSE[min(deaths, len(RESTART_PAUSE)) - 1])
            try:
                await self._spawn()
            except InferenceFailed as error:
                deaths += 1
                reason = str(error)
                self._say("engine.restart_failed", detail=reason)
        self._say("engine.restarted", restarts=restarts)
        return deaths

    def _say(self, name: str, **values: str | int) -> None:
        self._observer.observe(Note(name=name, values=values))


async def _relay(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The engine's bytes as they come; raises unless the last of them are `[DONE]`."""
    tail = b""
    try:
        async for block in response.content.iter_any():
            tail = (tail + block)[-len(DONE) :]
            yield block
    except (aiohttp.ClientError, OSError) as exc:
        detail = "The engine died while it was answering."
        raise GenerationInterrupted(detail) from exc
    if tail != DONE:
        detail = "The engine stopped before the answer was complete."
        raise GenerationInterrupted(detail)


async def _error_of(response: aiohttp.ClientResponse) -> MongarsError:
    """llama.cpp's refusal as one of our errors."""
    error: dict[str, object] = {}
    with contextlib.suppress(orjson.JSONDecodeError, aiohttp.ClientError):
        body = orjson.loads(await response.read())
        if isinstance(body, dict) and isinstance(body.get("error"), dict):
            error = body["error"]
    message = str(error.get("message") or f"The engine answered {response.status}.")
    if error.get("type") == "exceed_context_size_error":
        return ContextLengthExceeded(
            prompt_tokens=int(str(error.get("n_prompt_tokens") or 0)),
            context_tokens=int(str(error.get("n_ctx") or 0)),
        )
    if response.status == HTTPStatus.SERVICE_UNAVAILABLE:
        return NotReady(message, retry_after=RETRY_AFTER)
    if response.status in {HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY}:
        return InvalidRequest(message)
    return InferenceFailed(message)
