"""The engine port: the interface of everything that generates tokens."""

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
    """The state of an engine."""

    state: EngineState
    detail: str = ""
    restarts: int = 0
    pid: int | None = None


ByteStream = AbstractAsyncContextManager["AsyncIterator[bytes]"]


class Engine(Protocol):
    """One model, ready to answer; a process, a library or a remote server behind it.

    `stream` yields server-sent events as bytes: OpenAI `chat.completion.chunk` objects, usage in
    the last one, then `[DONE]`. Blocks may cut events anywhere. Entering the context raises the
    errors that are known before the first token: a `CallerError` for a mistake of the client (unusable
    request, context exceeded), `NotReady` or `InferenceFailed` otherwise. While iterating,
    `GenerationInterrupted` means that the stream was cut; a stream that ends without it is
    complete. Leaving the context at any moment stops the work and frees the slot.
    """

    @property
    def origin(self) -> Origin:
        """Model, engine and adapter that produce its answers, as they are loaded now."""
        ...

    @property
    def continues(self) -> bool:
        """Whether it continues the text in a request's `continue_from`; if not, it ignores that field.

        The token counts of a continued answer are those of the whole answer.
        """
        ...

    @property
    def slots(self) -> int:
        """How many requests it processes at the same time."""
        ...

    @property
    def status(self) -> EngineStatus:
        """Its current state; never blocks."""
        ...

    async def start(self) -> None:
        """Return once it can answer. Raises `InferenceFailed` with the reason if it cannot."""
        ...

    def stream(self, request: GenerationRequest) -> ByteStream:
        """Answer one request; see the class."""
        ...

    async def aclose(self) -> None:
        """Stop, and free every process, file and connection. Safe to call twice."""
        ...
