"""llama.cpp as an engine: HTTP to a supervised child process."""

from __future__ import annotations

from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp

from mongars.core.errors import GenerationInterrupted, InferenceFailed
from mongars.core.generation import Origin
from mongars.engines.chat import chat_body
from mongars.engines.llama_cpp.continued import continued_body, whole_counts
from mongars.engines.llama_cpp.refusal import refusal_of
from mongars.engines.llama_cpp.supervisor import LlamaCppSupervisor
from mongars.protocol.body import json_object
from mongars.protocol.sse import DONE

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from mongars.core.clock import Clock
    from mongars.core.generation import GenerationRequest
    from mongars.core.observe import Observer
    from mongars.engines.engine import EngineStatus
    from mongars.engines.llama_cpp.config import LlamaCppConfig

EVENT_END = b"\n\n"
PROGRESS = b'"prompt_progress"'


class LlamaCppEngine:
    """One model in one child process; see `engines.engine.Engine` for what it promises."""

    def __init__(
        self, config: LlamaCppConfig, *, clock: Clock, observer: Observer | None = None
    ) -> None:
        self._config = config
        self._child = LlamaCppSupervisor(config, clock=clock, observer=observer)

    @property
    def origin(self) -> Origin:
        """The bare base model."""
        return Origin(model=self._config.model_name, engine="llama_cpp")

    @property
    def continues(self) -> bool:
        """At any token."""
        return True

    @property
    def slots(self) -> int:
        """How many requests are worked on at once."""
        return self._config.slots

    @property
    def status(self) -> EngineStatus:
        """State, restarts and process id."""
        return self._child.status

    async def start(self) -> None:
        """Load the model. Raises `InferenceFailed` with the engine's own words if it cannot."""
        await self._child.start()

    async def aclose(self) -> None:
        """Kill the child; nothing of it is left afterwards."""
        await self._child.aclose()

    @asynccontextmanager
    async def stream(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[bytes]]:
        """Answer one request; leaving the context closes the connection, which frees the slot."""
        body = chat_body(request, model=self._config.model_name)
        # Progress events make llama.cpp write, and so notice a closed connection, between the
        # batches of a long prompt; without them it looks once a second.
        body["return_progress"] = True
        begun, limit = request.continue_from, request.sampling.max_tokens
        said = 0
        async with AsyncExitStack() as stack:
            try:
                if begun is not None:
                    said = await self._count(begun.text)
                    body = continued_body(body, begun.text, said=said)
                opened = self._child.post("/v1/chat/completions", body)
                response = await stack.enter_async_context(opened)
            except (aiohttp.ClientError, OSError) as exc:
                detail = f"The engine broke the connection: {exc}"
                raise InferenceFailed(detail) from exc
            if response.status != HTTPStatus.OK:
                raise await refusal_of(response)
            blocks = self._relay(response)
            if begun is None:
                yield blocks
            else:
                async with aclosing(blocks):
                    yield whole_counts(blocks, said=said, limit=limit)

    async def _count(self, text: str) -> int:
        """Tokens of a text."""
        async with self._child.post("/tokenize", {"content": text}) as response:
            if response.status != HTTPStatus.OK:
                raise await refusal_of(response)
            return len(json_object(await response.read())["tokens"])

    async def _relay(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        """The engine's bytes as they come; raises unless the last of them are `[DONE]`."""
        head: bytes | None = b""
        tail = b""
        try:
            while True:
                with self._child.waiting(response):
                    block = await response.content.readany()
                if not block:
                    break
                tail = (tail + block)[-len(DONE) :]
                if head is not None:
                    head = block = _after_progress(head + block)
                    if EVENT_END not in head:
                        continue
                    head = None
                yield block
        except (aiohttp.ClientError, OSError) as exc:
            stopped = self.status.state == "stopped"
            detail = f"The engine {'was stopped' if stopped else 'died'} while it was answering."
            raise GenerationInterrupted(detail) from exc
        if tail != DONE:
            detail = "The engine stopped before the answer was complete."
            raise GenerationInterrupted(detail)


def _after_progress(head: bytes) -> bytes:
    """What follows the progress events; those are for the engine's own ends, not for callers."""
    while (end := head.find(EVENT_END)) >= 0 and PROGRESS in head[:end]:
        head = head[end + len(EVENT_END) :]
    return head
