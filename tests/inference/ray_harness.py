"""The Ray provider alone, without background probes, for tests that count requests and waits."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING

from mongars.core.clock import Clock, SystemClock
from mongars.core.deadline import Deadline
from mongars.inference.config import InferenceConfig
from mongars.inference.http.http_pool import HttpPool
from mongars.inference.provider import Attempts, ProviderStream
from mongars.inference.ray.provider import RayServe
from mongars.testing.inference import question
from mongars.testing.recording import RecordingObserver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mongars.inference.endpoints.endpoint_status import EndpointStatus
    from mongars.protocol.accumulate import AnswerAccumulator


def name(fault: object) -> str:
    """The name of a test case with that fault: its type, and the fields that differ from their defaults."""
    if not is_dataclass(fault):
        return getattr(fault, "__name__", "")
    changed = [
        f"{entry.name}={getattr(fault, entry.name)!r:.40}"
        for entry in fields(fault)
        if getattr(fault, entry.name) != entry.default
    ]
    return f"{type(fault).__name__}({','.join(changed)})"


async def read_into(accumulated: AnswerAccumulator, stream: ProviderStream) -> None:
    """Add all chunks of the stream to `accumulated`, until its end or an error."""
    async for chunk in stream.chunks:
        accumulated.add(chunk)


@dataclass(slots=True, kw_only=True)
class RayHarness:
    """A Ray provider with its clock, observer and count of attempts."""

    provider: RayServe
    clock: Clock
    observer: RecordingObserver
    attempts: Attempts = field(init=False)

    def __post_init__(self) -> None:
        self.attempts = Attempts(self.clock)

    @asynccontextmanager
    async def open(self, *, seconds: float = 60.0) -> AsyncIterator[ProviderStream]:
        """A started answer to the usual prompt, with a deadline of `seconds`."""
        deadline = Deadline.after(self.clock, seconds)
        async with self.provider.open(question(), deadline, self.attempts) as stream:
            yield stream

    async def ask(self, *, seconds: float = 60.0) -> str:
        """The whole text of an answer to the usual prompt."""
        async with self.open(seconds=seconds) as stream:
            return "".join([chunk.text async for chunk in stream.chunks])

    async def endpoints(self) -> tuple[EndpointStatus, ...]:
        """The status of each endpoint."""
        return (await self.provider.status()).endpoints


@asynccontextmanager
async def ray_harness(
    *urls: str,
    clock: Clock | None = None,
    random: Callable[[], float] = lambda: 0.5,
    **settings: object,
) -> AsyncIterator[RayHarness]:
    """A Ray provider for these endpoints, closed at the end of the block."""
    config = InferenceConfig(
        endpoints=urls, use_ray=True, **{"session_affinity": False, **settings}
    )
    clock = clock or SystemClock()
    observer = RecordingObserver()
    http = HttpPool(config)
    provider = RayServe(config, http, clock=clock, observer=observer, random=random)
    try:
        yield RayHarness(provider=provider, clock=clock, observer=observer)
    finally:
        await provider.aclose()
