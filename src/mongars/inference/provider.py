"""The provider port: the interface of everything that can generate answers for the chain."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from mongars.core.clock import Clock
    from mongars.core.deadline import Deadline
    from mongars.core.generation import Chunk, GenerationRequest, Origin, Usage
    from mongars.inference.endpoints.endpoint_status import EndpointStatus
    from mongars.inference.events import FallbackReason

ProviderName = Literal["ray_serve", "ollama", "embedded"]
ProviderState = Literal["up", "resting", "down", "unknown", "off"]
"""`resting`: reachable, but it returned `Retry-After`; it is not used until that time is over."""
StreamState = Literal["open", "complete", "cut"]
CacheUse = Literal["hit", "shared", "miss"]
"""A stored answer, a generation shared with an earlier identical request, or a new one to be stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where an answer came from. `attempts` counts requests sent, over all providers.

    `fallback`: Ray was tried first and failed, for `reason`. `cache` is None for requests whose answers
    are not stored.
    """

    provider: ProviderName
    endpoint: str
    attempts: int
    fallback: bool = False
    reason: FallbackReason | None = None
    cache: CacheUse | None = None
    waited: float = field(default=0.0, compare=False)
    """Seconds, before the answer started, in which at least one attempt was in flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderStatus:
    """The state of a provider; `detail` says what an operator can do, if anything."""

    name: ProviderName
    state: ProviderState
    detail: str = ""
    endpoints: tuple[EndpointStatus, ...] = ()


class Attempts:
    """The attempts made for one request by all providers, and the time waited for them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting = 0
        self._since = 0.0
        self.count = 0
        self.fell_back = False
        """Whether a fallback from Ray was recorded."""
        self.waited = 0.0
        """Seconds in which at least one attempt was waited for."""

    def add(self) -> int:
        """Count one more attempt; returns its number, from 1."""
        self.count += 1
        return self.count

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Measure the time in the context as waiting; contexts may overlap, as those of a hedge do."""
        if not self._waiting:
            self._since = self._clock.monotonic()
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                self.waited += self._clock.monotonic() - self._since


class ChunkStream(Protocol):
    """The chunks of a started answer.

    Iterating raises `GenerationInterrupted` if the answer is cut; if iteration ends, it is complete.
    """

    @property
    def state(self) -> StreamState:
        """Whether it is still open, complete, or cut."""
        ...

    @property
    def usage(self) -> Usage | None:
        """The engine's token counts, once they have arrived."""
        ...

    def ready(self) -> list[Chunk]:
        """The chunks that have arrived, in order, without waiting; possibly none."""
        ...

    def __aiter__(self) -> ChunkStream: ...

    async def __anext__(self) -> Chunk: ...


class AnswerChunks(ChunkStream, Protocol):
    """The chunks of an answer, whichever provider generates it now."""

    @property
    def route(self) -> Route:
        """The route of the current provider."""
        ...

    @property
    def origin(self) -> Origin:
        """Model, adapter and replica that generate the answer now."""
        ...

    @property
    def moves(self) -> int:
        """How often the answer continued on another endpoint or provider."""
        ...

    async def release(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the stream; the arguments are those of `__aexit__`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderStream:
    """A started answer: its first content has arrived."""

    origin: Origin
    endpoint: str
    chunks: ChunkStream
    continued: bool = False
    """Whether the chunks continue after `continue_from` instead of repeating the answer."""


class Provider(Protocol):
    """A source of answers: a cluster, a server or an engine in this process."""

    @property
    def name(self) -> ProviderName:
        """Its name in metrics, logs and headers."""
        ...

    @property
    def local(self) -> bool:
        """Whether it stands in for a remote provider: after a failure of that one it is a fallback."""
        ...

    def open(
        self, request: GenerationRequest, deadline: Deadline, attempts: Attempts
    ) -> AbstractAsyncContextManager[ProviderStream]:
        """Start an answer; entered once its first content has arrived.

        Entering raises a `CallerError` if the request is wrong, or a `WorldError` if this provider
        failed and another one may be tried. Leaving stops the work in every phase.
        """
        ...

    async def context_tokens(self) -> int | None:
        """The context window of its model in tokens, prompt and answer together; None if unknown.

        Never raises; takes at most two seconds.
        """
        ...

    async def run(self) -> None:
        """Background work, until cancelled; may return at once if there is none."""
        ...

    async def status(self) -> ProviderStatus:
        """Its state now. Never raises; takes at most two seconds."""
        ...

    def drain(self, endpoint_id: str) -> bool:
        """Send no further requests to that endpoint; False if it has none of that id."""
        ...

    def reset(self, endpoint_id: str) -> bool:
        """Forget failures and waits of that endpoint and use it again; False if it has none of that id."""
        ...

    async def aclose(self) -> None:
        """Close connections and engines. Safe to call twice."""
        ...
