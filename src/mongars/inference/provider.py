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
    """How an answer was obtained: by which provider and endpoint, after how many requests to all (`attempts`).

    `waited`: seconds before the answer started in which at least one of these requests was waiting for a provider.
    `fallback`: whether Ray was tried first and failed, for `reason` (None if not). `cache`: whether the answer was
    stored, shared with an identical request or newly generated; None for requests whose answers are never cached.
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
    """The state of a provider as shown to operators.

    `state`: `up`, `resting` (not used until the time in its `Retry-After`), `down`, `unknown` or `off` (not
    configured). `detail`: a sentence on the state and, if something is wrong, on what an operator can do. `endpoints`:
    empty except for Ray.
    """

    name: ProviderName
    state: ProviderState
    detail: str = ""
    endpoints: tuple[EndpointStatus, ...] = ()


class Attempts:
    """Counts the requests sent to providers on behalf of one client request, and the time spent waiting for them.

    `count`: requests sent so far. `waited`: seconds in which at least one of them was in flight and neither the first
    content of its answer nor its vectors had arrived.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting = 0
        self._since = 0.0
        self.count = 0
        self.waited = 0.0
        """Seconds during which at least one attempt was in flight and had not started a result."""

    def add(self) -> int:
        """Count one more request sent to a provider; returns its number, starting from 1."""
        self.count += 1
        return self.count

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Context manager that adds the time spent in it to `waited`; the time of overlapping ones is added once."""
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
    """Async iterator over the chunks of a started answer.

    Iteration raises `GenerationInterrupted` if the stream breaks before the answer is complete, or `InvalidRequest` if
    the engine reports the request as wrong; if it ends without an exception, the answer is complete.
    """

    @property
    def state(self) -> StreamState:
        """`open` while more chunks may come, `complete`, or `cut` if the stream broke before it was complete."""
        ...

    @property
    def usage(self) -> Usage | None:
        """The token counts of the answer as the engine reported them; None until they have arrived."""
        ...

    def ready(self) -> list[Chunk]:
        """Remove and return the chunks that have arrived, in order, without waiting; possibly empty."""
        ...

    def __aiter__(self) -> ChunkStream: ...

    async def __anext__(self) -> Chunk: ...


class AnswerChunks(ChunkStream, Protocol):
    """A `ChunkStream` that another provider may continue if the current one's stream breaks (mid-stream failover)."""

    @property
    def route(self) -> Route:
        """Provider and endpoint that generate the answer now, with the number of attempts, as a `Route`."""
        ...

    @property
    def origin(self) -> Origin:
        """Model, engine, adapter and replica that generate the answer now."""
        ...

    @property
    def moves(self) -> int:
        """How often another provider or endpoint was tried so far because the stream broke (mid-stream failovers)."""
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
    """An answer that a provider has started, after its first content has arrived.

    `origin`: model, engine and adapter that generate it. `endpoint`: the address that answers, for logs and headers. A
    request may have the beginning of an answer that broke off (`continue_from`): `continued` is True if the chunks
    start after that text, False if they begin with the whole answer again or the request has none.
    """

    origin: Origin
    endpoint: str
    chunks: ChunkStream
    continued: bool = False
    """Whether the chunks start after the text of `request.continue_from`; False: they repeat it."""


class Provider(Protocol):
    """A source of answers: the Ray endpoints, an Ollama server or the embedded engines of this process."""

    @property
    def name(self) -> ProviderName:
        """The provider's name in metrics, logs and response headers: `ray_serve`, `ollama` or `embedded`."""
        ...

    @property
    def local(self) -> bool:
        """True for the fallbacks that are used if Ray fails (Ollama, embedded engine); False for Ray."""
        ...

    def open(
        self, request: GenerationRequest, deadline: Deadline, attempts: Attempts
    ) -> AbstractAsyncContextManager[ProviderStream]:
        """Context manager of a started answer; entered once its first content has arrived.

        `deadline`: the time by which the answer must be complete; `attempts` counts the requests sent. Entering raises
        a `CallerError` if the request is wrong, or a `WorldError` if this provider failed and another one may be tried,
        such as `DeadlineExceeded`. If the deadline passes later, iteration raises `GenerationInterrupted`. Exit or
        cancellation stops the generation at any time.
        """
        ...

    async def context_tokens(self) -> int | None:
        """The model's context window in tokens, prompt and answer together; None if unknown.

        Never raises; takes at most two seconds.
        """
        ...

    async def run(self) -> None:
        """Run this provider's background work, such as probing endpoints, until cancelled; may return at once."""
        ...

    async def status(self) -> ProviderStatus:
        """The provider's current state. Never raises; takes at most two seconds."""
        ...

    def drain(self, endpoint_id: str) -> bool:
        """Send no further requests to an endpoint until `reset` is called for it.

        `endpoint_id`: such as `ray-1`, the number in configured order. Requests in flight go on. Returns False for an
        unknown id.
        """
        ...

    def reset(self, endpoint_id: str) -> bool:
        """Forget the recorded failures, busy waits and latency of an endpoint, and use it again, also after `drain`.

        `endpoint_id`: such as `ray-1`, the number in configured order. Returns False for an unknown id.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections and engines of this provider; requests in progress then fail. Safe to call twice."""
        ...
