"""A fake Ollama server on a real socket, with faults: `/api/chat` streams newline-delimited JSON."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, TypeAlias

import orjson
from aiohttp import web

from mongars.testing.fake_answers import PROMPT_TOKENS, tokens
from mongars.testing.fake_server import FakeServer, Received, reset
from mongars.testing.faults import Body, Echo, FaultyResponse, Reset, Silence, Status
from mongars.testing.ollama_echo import CREATED_AT, echo, shown_model

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


OllamaFault: TypeAlias = FaultyResponse | Status | Body | Reset | Silence | Echo


class FakeOllama(FakeServer):
    """A fake Ollama server: `/api/chat`, `/api/show`, `/api/tags` and `/api/version` for the model names `models`.

    Each request of `/api/chat` takes the next fault from `faults`; if there is none, `always` applies, by default a
    correct answer. `shows` counts requests of `/api/show`. Of a `FaultyResponse`, only these fields have an effect:
    text, reasoning, delays, `cut_after`, `stall_after`, `error_after`, `block`, `hold_open`.
    """

    def __init__(self, *faults: OllamaFault, models: tuple[str, ...] = ("fake:latest",)) -> None:
        super().__init__()
        self.faults = deque(faults)
        self.always: OllamaFault = FaultyResponse()
        self.models = models
        self.tags: Status | Body | Silence | None = None
        """The response of `/api/tags` instead of the list of models; None: the list."""
        self.shown: Status | Body | Silence | None = None
        """The response of `/api/show` instead of the model's details; None: the details."""
        self.context_tokens = 131_072
        """The models' largest context in tokens, as `/api/show` reports it."""
        self.shows = 0
        self._parallel: asyncio.Semaphore | None = None

    def add_routes(self, app: web.Application) -> None:
        """Add to `app` those routes of a real Ollama server that monGARS uses."""
        app.router.add_post("/api/chat", self._chat)
        app.router.add_post("/api/show", self._show)
        app.router.add_get("/api/tags", self._tags)
        app.router.add_get("/api/version", self._version)

    async def _tags(self, _: web.Request) -> web.Response:
        match self.tags:
            case Status() | Body():
                return _instead(self.tags)
            case Silence():
                await self.clock.sleep(3600)
        found = [
            {"name": name, "model": name, "size": 1, "digest": "0" * 64} for name in self.models
        ]
        return web.json_response({"models": found})

    async def _show(self, request: web.Request) -> web.Response:
        self.shows += 1
        match self.shown:
            case Status() | Body():
                return _instead(self.shown)
            case Silence():
                await self.clock.sleep(3600)
        order = await request.json()
        model = str(order.get("model"))
        if not self._has(model):
            return web.json_response({"error": f"model '{model}' not found"}, status=404)
        return web.json_response(
            shown_model(context_tokens=self.context_tokens, verbose=order.get("verbose") is True)
        )

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "0.34.1"})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        received = await self.note(request)
        try:
            response = await self._act(request, received)
        except (asyncio.CancelledError, ConnectionError):
            self.left(received)
            raise
        received.answered = True
        return response

    async def _act(self, request: web.Request, received: Received) -> web.StreamResponse:
        fault = self.faults.popleft() if self.faults else self.always
        model = str(received.body.get("model"))
        if not self._has(model):
            return web.json_response({"error": f"model '{model}' not found"}, status=404)
        match fault:
            case Status() | Body():
                return _instead(fault)
            case Reset():
                reset(request)
            case Silence():
                await self.clock.sleep(fault.seconds)
                reset(request)
            case Echo():
                return await self._echo(request, received, fault)
            case FaultyResponse():
                return await self._stream(request, fault, model)
        return web.Response()

    def _has(self, model: str) -> bool:
        return (model if ":" in model else f"{model}:latest") in self.models

    async def _echo(
        self, request: web.Request, received: Received, fault: Echo
    ) -> web.StreamResponse:
        self._parallel = self._parallel or asyncio.Semaphore(fault.parallel)
        async with self._parallel:
            return await echo(request, received.body, fault, clock=self.clock)

    async def _stream(
        self, request: web.Request, fault: FaultyResponse, model: str
    ) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type = "application/x-ndjson"
        await response.prepare(request)
        await self.clock.sleep(fault.first_delay)
        async for line in self._lines(fault, model):
            data = orjson.dumps(line) + b"\n"
            size = fault.block or len(data)
            for start in range(0, len(data), size):
                await response.write(data[start : start + size])
        if fault.hold_open:
            await self.clock.sleep(3600)
        await response.write_eof()
        return response

    async def _lines(self, fault: FaultyResponse, model: str) -> AsyncIterator[dict[str, Any]]:
        head = {"model": model, "created_at": CREATED_AT}
        parts = tokens(fault.text)
        for token in tokens(fault.reasoning):
            await self.clock.sleep(fault.token_delay)
            message = {"role": "assistant", "content": "", "thinking": token}
            yield {**head, "message": message, "done": False}
        for index, token in enumerate(parts):
            if index == fault.cut_after:
                return
            if index == fault.error_after:
                yield {"error": "llama runner process has terminated"}
                return
            stalls = index == fault.stall_after
            await self.clock.sleep(fault.stall_seconds if stalls else fault.token_delay)
            yield {**head, "message": {"role": "assistant", "content": token}, "done": False}
        yield {
            **head,
            "message": {"role": "assistant", "content": ""},
            "done": True,
            "done_reason": "stop",
            "total_duration": 1,
            "prompt_eval_count": PROMPT_TOKENS,
            "eval_count": len(parts),
        }


def _instead(fault: Status | Body) -> web.Response:
    if isinstance(fault, Body):
        return web.Response(body=fault.data, content_type=fault.media_type)
    told = fault.body or {"error": fault.detail or fault.error}
    return web.json_response(told, status=fault.code, headers=fault.headers)
