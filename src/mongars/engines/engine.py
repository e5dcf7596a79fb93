"""The engine interface: what every component that generates tokens implements."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.core.generation import GenerationRequest, Origin

EngineState = Literal["stopped", "starting", "ready", "restarting", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """The state of an engine or embedder (`stopped`, `starting`, `ready`, `restarting` or `failed`) at one moment.

    `detail`: the reason if it failed or restarts, else empty. `restarts`: the number of automatic restarts (or
    reconnections, for a remote server). `pid`: the id of its child process; None if none runs.
    """

    state: EngineState
    detail: str = ""
    restarts: int = 0
    pid: int | None = None


ByteStream = AbstractAsyncContextManager["AsyncIterator[bytes]"]


class Engine(Protocol):
    """The interface of a loaded model that generates answers, in a child process, a library or a remote server.

    `stream` yields server-sent events as bytes: OpenAI `chat.completion.chunk` objects, token usage in the last one,
    then `[DONE]`. A block of bytes may begin or end inside an event. Entering the context raises the errors that are
    known before the first token: a `CallerError` for a mistake of the client (unusable request, context window
    exceeded), `NotReady` or another `WorldError`, mostly `InferenceFailed`, otherwise. While iterating,
    `GenerationInterrupted` means that the stream was cut; a stream that ends without it is complete. Leaving the
    context at any moment stops the generation and frees the engine's slot (its capacity for one request).
    """

    @property
    def origin(self) -> Origin:
        """The model, engine and adapter that are loaded now and generate the answers."""
        ...

    @property
    def continues(self) -> bool:
        """Whether the engine can continue an answer whose beginning is in a request's `continue_from`.

        False: it ignores that field. The token counts of a continued answer include its beginning.
        """
        ...

    @property
    def slots(self) -> int:
        """How many requests the engine processes at the same time."""
        ...

    @property
    def status(self) -> EngineStatus:
        """The engine's current state, as last observed; reading it never blocks."""
        ...

    async def start(self) -> None:
        """Load the model and return when requests can be answered.

        Raises `InferenceFailed` with the reason if the engine cannot start.
        """
        ...

    def stream(self, request: GenerationRequest) -> ByteStream:
        """Generate the answer to one request; a context whose value yields it as server-sent events, in bytes.

        The events are `chat.completion.chunk` objects of OpenAI's format, then one with the token counts, then
        `[DONE]`; a block may begin or end inside an event. Entering raises a `CallerError` if the request is wrong,
        else a `WorldError` such as `NotReady`. Iterating raises `GenerationInterrupted` if the answer is cut. Leaving
        the context stops the generation.
        """
        ...

    async def aclose(self) -> None:
        """Stop the engine and free its processes, files and connections. Safe to call twice.

        Does not wait for answers that are being generated: their streams end with `GenerationInterrupted`.
        """
        ...
