"""The llama.cpp engine: HTTP requests to a supervised child process."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp

from mongars.core.errors import GenerationInterrupted, InferenceFailed, ProvisioningFailed
from mongars.core.generation import Origin
from mongars.engines.llama_cpp.chat_body import chat_body
from mongars.engines.llama_cpp.continued import continued_body, whole_counts
from mongars.engines.llama_cpp.literal_prompt import (
    CHAT_COMPLETIONS,
    COMPLETIONS,
    as_chat,
    text_tokens,
    without_control_tokens,
)
from mongars.engines.llama_cpp.prompt_cache_slots import PromptCacheSlots
from mongars.engines.llama_cpp.refusal import refusal_of
from mongars.engines.llama_cpp.supervisor import LlamaCppSupervisor
from mongars.engines.llama_cpp.vocabulary import Vocabulary
from mongars.engines.provisioning.gguf import gguf_values
from mongars.protocol.logprobs import mended
from mongars.protocol.sse import DONE

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

    from mongars.core.clock import Clock
    from mongars.core.generation import GenerationRequest
    from mongars.core.observe import Observer
    from mongars.engines.engine import EngineStatus
    from mongars.engines.llama_cpp.config import LlamaCppConfig
    from mongars.engines.llama_cpp.prompt_cache_slots import HeldSlot

EVENT_END = b"\n\n"
PROGRESS = b'"prompt_progress"'


class LlamaCppEngine:
    """One model in one llama.cpp child process; implements `engines.engine.Engine`.

    The process is restarted if it ends, or hangs and is killed; after 8 restarts in a row that failed or did not last
    30 seconds the state is `failed`, and it is not restarted again. `observer` receives the log events; None: they are
    discarded.
    """

    def __init__(
        self, config: LlamaCppConfig, *, clock: Clock, observer: Observer | None = None
    ) -> None:
        self._config = config
        self._child = LlamaCppSupervisor(config, clock=clock, observer=observer)
        self._vocabulary: Vocabulary | None = None
        self._slots = (
            PromptCacheSlots(config.slots) if config.prompt_cache_scope == "user" else None
        )

    @property
    def origin(self) -> Origin:
        """The model's name and the engine `llama_cpp`, without an adapter."""
        return Origin(model=self._config.model_name, engine="llama_cpp")

    @property
    def continues(self) -> bool:
        """Always True: llama.cpp can continue a text after any token."""
        return True

    @property
    def slots(self) -> int:
        """How many requests the child process answers at the same time."""
        return self._config.slots

    @property
    def status(self) -> EngineStatus:
        """The engine's current state, the number of restarts of its child process, and its process id."""
        return self._child.status

    async def start(self) -> None:
        """Start the child process and load the model.

        Raises `InferenceFailed` with the reason if the file is no readable GGUF file, or if the child cannot load it or
        takes longer than the configured `start_timeout`.
        """
        # At the same time: the child reads the file in its own process.
        reading = asyncio.get_running_loop().run_in_executor(
            None, _vocabulary_in, self._config.model_path
        )
        await self._child.start()
        vocabulary = await reading
        if isinstance(vocabulary, ProvisioningFailed):
            await self._child.aclose()
            raise InferenceFailed(str(vocabulary)) from vocabulary
        self._vocabulary = vocabulary

    async def aclose(self) -> None:
        """Kill the child process and remove its socket. Safe to call twice.

        Answers that are being generated are cut: their streams end with `GenerationInterrupted`.
        """
        await self._child.aclose()

    @asynccontextmanager
    async def stream(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[bytes]]:
        """Generate the answer to one request; a context whose value yields it as server-sent events, in bytes.

        The events are OpenAI `chat.completion.chunk` objects, then one with the token counts, then `[DONE]`; a block
        of bytes may begin or end inside an event. Leaving the context closes the connection, which stops the
        generation.

        Entering raises `NotReady` while the child process does not run, `ContextLengthExceeded` for a prompt that is
        too long, `ParameterUnsupported` for a parameter or JSON schema that llama.cpp does not support,
        `InvalidRequest` if it refuses the request otherwise, and `InferenceFailed` or `InvalidAnswer` if the child
        fails. Iterating raises `GenerationInterrupted` if the answer is cut.
        """
        partial, limit = request.continue_from, request.sampling.max_tokens
        partial_tokens = 0
        async with AsyncExitStack() as stack:
            slot = await self._slot(request, stack)
            reasons = self._vocabulary is not None and self._vocabulary.reasons
            body = chat_body(request, model=self._config.model_name, reasons=reasons)
            # Progress events make llama.cpp write, and so notice a closed connection, between the
            # batches of a long prompt; without them it checks once a second.
            body["return_progress"] = True
            if slot is not None:
                body |= slot.parameters
            try:
                if partial is not None:
                    partial_tokens = len(await text_tokens(self._child, partial.text))
                    body = continued_body(body, partial.text, partial_tokens=partial_tokens)
                path = CHAT_COMPLETIONS
                if self._vocabulary is not None:
                    path, body = await without_control_tokens(self._child, body, self._vocabulary)
                response = await stack.enter_async_context(self._child.post(path, body))
            except (aiohttp.ClientError, OSError) as exc:
                detail = f"The engine broke the connection: {exc}"
                raise InferenceFailed(detail) from exc
            if response.status != HTTPStatus.OK:
                raise await refusal_of(response)
            if slot is not None:
                slot.prompt_started()
            blocks = await stack.enter_async_context(aclosing(self._relay(response)))
            if path == COMPLETIONS:
                blocks = await stack.enter_async_context(aclosing(as_chat(blocks)))
            if request.sampling.logprobs:
                named = mended(blocks, alternatives=bool(request.sampling.top_logprobs))
                blocks = await stack.enter_async_context(aclosing(named))
            if partial is not None:
                whole = whole_counts(blocks, partial_tokens=partial_tokens, limit=limit)
                blocks = await stack.enter_async_context(aclosing(whole))
            yield blocks

    async def _slot(self, request: GenerationRequest, stack: AsyncExitStack) -> HeldSlot | None:
        """Choose one of llama.cpp's slots for a request and hold it until `stack` is closed; waits for a free one.

        A slot is one of the server's parallel sequences, each with a cached prompt. None if accounts share cached
        prompts (prompt-cache scope `shared`): then llama.cpp chooses the slot.
        """
        if self._slots is None:
            return None
        held = self._slots.hold(request.scope, request.messages, process=self.status.pid)
        return await stack.enter_async_context(held)

    async def _relay(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of the child process's response, without the progress events with which it begins.

        Raises `GenerationInterrupted` if the connection breaks or the bytes do not end with `[DONE]`.
        """
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


def _vocabulary_in(path: Path) -> Vocabulary | ProvisioningFailed:
    """Read the control tokens of the GGUF file at `path`. A `ProvisioningFailed` is returned instead of raised."""
    try:
        return Vocabulary.of(gguf_values(path))
    except ProvisioningFailed as error:
        return error


def _after_progress(head: bytes) -> bytes:
    """`head`, the beginning of a stream, without llama.cpp's events about the progress of prompt processing.

    Only whole events are removed, and only those before the first other event.
    """
    while (end := head.find(EVENT_END)) >= 0 and PROGRESS in head[:end]:
        head = head[end + len(EVENT_END) :]
    return head
