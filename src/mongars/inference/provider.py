"""The provider port: something that can answer, be it a cluster, a server or a library."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager

    from mongars.core.clock import Clock
    from mongars.core.deadline import Deadline
    from mongars.core.generation import Chunk, GenerationRequest, Origin, Usage
    from mongars.inference.endpoints.status import EndpointStatus
    from mongars.inference.events import FallbackReason

ProviderName = Literal["ray_serve", "ollama", "embedded"]
ProviderState = Literal["up", "resting", "down", "unknown", "off"]
"""`resting`: it is there, and returned `Retry-After`; it is not used until that time is over."""
StreamState = Literal["open", "complete", "cut"]
CacheUse = Literal["hit", "shared", "miss"]
"""A stored answer, one in the making that somebody else had asked for, or a new one to be kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Which way an answer came. `attempts` counts what was sent, over all providers.

    `fallback` says that Ray was asked first and could not answer; `reason` says why. `cache` is None
    where answers are not kept.
    """

    provider: ProviderName
    endpoint: str
    attempts: int
    fallback: bool = False
    reason: FallbackReason | None = None
    cache: CacheUse | None = None
    waited: float = field(default=0.0, compare=False)
    """Seconds until it began in which somebody who had been asked was waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderStatus:
    """What a provider knows of itself. `detail` says what to do, if there is something to do."""

    name: ProviderName
    state: ProviderState
    detail: str = ""
    endpoints: tuple[EndpointStatus, ...] = ()


class Attempts:
    """What one request sent out, whichever provider sent it, and how long it was waited for."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting = 0
        self._since = 0.0
        self.count = 0
        self.fell_back = False
        """Whether it was reported that Ray could not answer."""
        self.waited = 0.0
        """Seconds in which at least one of them was waited for."""

    def add(self) -> int:
        """One more goes out; returns how many that makes."""
        self.count += 1
        return self.count

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Somebody who was asked is waited for; maybe several at once."""
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
    """The chunks of an answer that has begun.

    Iterating raises `GenerationInterrupted` if it is cut; a stream that just ends is complete.
    """

    @property
    def state(self) -> StreamState:
        """How far it is."""
        ...

    @property
    def usage(self) -> Usage | None:
        """The engine's counts, once they have come."""
        ...

    def ready(self) -> list[Chunk]:
        """The chunks that can be had without waiting, in order; possibly none."""
        ...

    def __aiter__(self) -> ChunkStream: ...

    async def __anext__(self) -> Chunk: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderStream:
    """An answer that has begun: its first content has been received and can be read at once."""

    origin: Origin
    endpoint: str
    chunks: ChunkStream
    continued: bool = False
    """Whether the chunks go on after `continue_from`, and do not begin the answer anew."""


class Provider(Protocol):
    """One way to get an answer."""

    @property
    def name(self) -> ProviderName:
        """Which one."""
        ...

    def open(
        self, request: GenerationRequest, deadline: Deadline, attempts: Attempts
    ) -> AbstractAsyncContextManager[ProviderStream]:
        """Begin an answer.

        Entering returns once the first content has come. It raises a `CallerError` for the
        caller's mistake, or a `WorldError`, in which case the caller has seen nothing and somebody
        else may be asked. Leaving stops the work, wherever it is, in every phase.
        """
        ...

    async def context_tokens(self) -> int | None:
        """How many tokens its model can hold, prompt and answer together; None if nobody knows.

        Never raises; bounded to a second or two.
        """
        ...

    async def run(self) -> None:
        """Background work, until cancelled; may return at once if there is none."""
        ...

    async def status(self) -> ProviderStatus:
        """Its state now. Never raises; bounded to a second or two."""
        ...

    def drain(self, endpoint_id: str) -> bool:
        """Send nothing to that endpoint any more; False if it has none of that id."""
        ...

    def reset(self, endpoint_id: str) -> bool:
        """Forget what was seen of that endpoint and use it again; False if it has none such."""
        ...

    async def aclose(self) -> None:
        """Let go of everything. Safe to call twice."""
        ...
