"""The interface of providers: components that can generate answers for the provider chain."""

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
"""`resting`: reachable, but not used until the time in its `Retry-After` has passed. `off`: not configured."""
StreamState = Literal["open", "complete", "cut"]
CacheUse = Literal["hit", "shared", "miss"]
"""`hit`: a stored answer; `shared`: the generation of an identical request; `miss`: a new one, to be stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where an answer came from. `attempts` counts requests sent, over all providers.

    `fallback`: whether Ray was tried first and failed, for `reason`. `cache`: whether the answer was stored, shared
    with an identical request or newly generated; None for requests whose answers are never cached.
    """

    provider: ProviderName
    endpoint: str
    attempts: int
    fallback: bool = False
    reason: FallbackReason | None = None
    cache: CacheUse | None = None
    waited: float = field(default=0.0, compare=False)
    """Seconds before the answer started in which at least one attempt was waiting for a provider."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderStatus:
    """The state of a provider; `detail` describes it and, if something is wrong, what an operator can do."""

    name: ProviderName
    state: ProviderState
    detail: str = ""
    endpoints: tuple[EndpointStatus, ...] = ()


class Attempts:
    """Counts the requests sent for one client request by all providers, and the time spent waiting for them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting = 0
        self._since = 0.0
        self.count = 0
        self.fell_back = False
        """Whether the event `FellBack` has been emitted for this request."""
        self.waited = 0.0
        """Seconds during which at least one attempt was in flight and had not started a result."""

    def add(self) -> int:
        """Count one more request sent to a provider; returns its number, starting from 1."""
        self.count += 1
        return self.count

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Add the time spent in this context to `waited`; overlapping contexts are counted once."""
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

    Iteration raises `GenerationInterrupted` if the stream breaks before the answer is complete; if iteration
    ends without an exception, the answer is complete.
    """

    @property
    def state(self) -> StreamState:
        """`open` while more chunks may come, `complete`, or `cut` if the stream broke before it was complete."""
        ...

    @property
    def usage(self) -> Usage | None:
        """The engine's token counts; None until they have arrived."""
        ...

    def ready(self) -> list[Chunk]:
        """Remove and return the chunks that have arrived, in order, without waiting; possibly empty."""
        ...

    def __aiter__(self) -> ChunkStream: ...

    async def __anext__(self) -> Chunk: ...


class AnswerChunks(ChunkStream, Protocol):
    """A `ChunkStream` that may be moved to another provider while it is read (mid-stream failover)."""

    @property
    def route(self) -> Route:
        """The route of the provider that generates the answer now."""
        ...

    @property
    def origin(self) -> Origin:
        """Model, adapter and replica that generate the answer now."""
        ...

    @property
    def moves(self) -> int:
        """Number of mid-stream failovers so far."""
        ...

    async def release(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the stream and stop the generation; the arguments are those of `__aexit__`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderStream:
    """An answer started by a provider: its first content has arrived."""

    origin: Origin
    endpoint: str
    chunks: ChunkStream
    continued: bool = False
    """Whether the chunks start after the text of `request.continue_from`; False: they repeat it."""


class Provider(Protocol):
    """A component that generates answers: a Ray cluster, an Ollama server or engines in this process."""

    @property
    def name(self) -> ProviderName:
        """The provider's name in metrics, logs and response headers."""
        ...

    @property
    def local(self) -> bool:
        """Whether this provider is used as a fallback when Ray fails."""
        ...

    def open(
        self, request: GenerationRequest, deadline: Deadline, attempts: Attempts
    ) -> AbstractAsyncContextManager[ProviderStream]:
        """Start an answer; enters once its first content has arrived.

        Entering raises a `CallerError` if the request is wrong, or a `WorldError` if this provider failed and
        another one may be tried. Exit or cancellation stops the generation at any time.
        """
        ...

    async def context_tokens(self) -> int | None:
        """The model's context window in tokens, prompt and answer together; None if unknown.

        Never raises; takes at most two seconds.
        """
        ...

    async def run(self) -> None:
        """Run this provider's background work until cancelled; return at once if it has none."""
        ...

    async def status(self) -> ProviderStatus:
        """The provider's current state. Never raises; takes at most two seconds."""
        ...

    def drain(self, endpoint_id: str) -> bool:
        """Send no further requests to the endpoint `endpoint_id` until `reset`; returns False for an unknown id."""
        ...

    def reset(self, endpoint_id: str) -> bool:
        """Clear failures and waits of the endpoint `endpoint_id` and use it again; returns False for an unknown id."""
        ...

    async def aclose(self) -> None:
        """Close all connections and engines of this provider. Safe to call twice."""
        ...
