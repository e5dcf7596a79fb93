"""One replica, without Ray: an engine behind admission, answering whole or as a stream."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mongars.core.deadline import Deadline
from mongars.core.errors import DeadlineExceeded, GenerationInterrupted, NotReady
from mongars.engines.admission import Admission
from mongars.protocol.openai import Fold, read_chunk
from mongars.protocol.sse import EventSplitter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.core.clock import Clock
    from mongars.core.generation import Completion, GenerationRequest, Origin
    from mongars.engines.engine import Engine, EngineStatus
    from mongars.serving.config import ReplicaConfig, SamplingDefaults


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStream:
    """An answer on its way: who gives it, how long it waited (seconds), and its bytes."""

    origin: Origin
    queue_seconds: float
    blocks: AsyncIterator[bytes]


class Replica:
    """Owns one engine; knows nothing of HTTP."""

    def __init__(
        self, engine: Engine, config: ReplicaConfig, *, clock: Clock, replica_id: str
    ) -> None:
        self._engine = engine
        self._config = config
        self._clock = clock
        self._defaults = config.sampling.to_sampling()
        self._admission = Admission(slots=engine.slots, max_waiting=config.max_waiting)
        self.replica_id = replica_id

    @property
    def config(self) -> ReplicaConfig:
        """What it was made with."""
        return self._config

    @property
    def origin(self) -> Origin:
        """Who answers: the engine's own word, plus this replica's name."""
        return replace(self._engine.origin, replica=self.replica_id)

    @property
    def engine_status(self) -> EngineStatus:
        """The engine's state now."""
        return self._engine.status

    @property
    def load(self) -> dict[str, int]:
        """Slots, requests being answered and requests waiting."""
        return {
            "slots": self._engine.slots,
            "active": self._admission.active,
            "waiting": self._admission.waiting,
        }

    async def start(self) -> None:
        """Start the engine. Raises `InferenceFailed` with its reason if it cannot."""
        await self._engine.start()

    async def aclose(self) -> None:
        """Stop the engine."""
        await self._engine.aclose()

    def use_defaults(self, sampling: SamplingDefaults) -> None:
        """Take new sampling defaults for the requests to come."""
        self._defaults = sampling.to_sampling()

    def deadline(self, milliseconds: float | None) -> Deadline:
        """The caller's deadline, or the longest time any answer may take."""
        limit = self._config.answer_timeout
        seconds = limit if milliseconds is None else min(milliseconds / 1000, limit)
        return Deadline.after(self._clock, seconds)

    @asynccontextmanager
    async def stream(
        self, request: GenerationRequest, deadline: Deadline
    ) -> AsyncIterator[ReplicaStream]:
        """Answer one request; leaving the context frees its slot, in the queue or the engine.

        Raises what `Admission.slot` and `Engine.stream` raise before the first byte;
        `GenerationInterrupted` or `DeadlineExceeded` while iterating.
        """
        if self._engine.status.state != "ready":
            detail = f"The engine is {self._engine.status.state}."
            raise NotReady(detail, retry_after=1.0)
        complete = replace(request, sampling=request.sampling.with_defaults(self._defaults))
        async with self._admission.slot(deadline) as waited:
            try:
                async with (
                    asyncio.timeout(deadline.remaining()),
                    self._engine.stream(complete) as blocks,
                ):
                    yield ReplicaStream(origin=self.origin, queue_seconds=waited, blocks=blocks)
            except TimeoutError as exc:
                detail = "The deadline passed before the answer was complete."
                raise DeadlineExceeded(detail) from exc

    async def complete(
        self, request: GenerationRequest, deadline: Deadline
    ) -> tuple[Completion, dict[str, float]]:
        """The whole answer and its timings in seconds (`queue`, `total`).

        Raises the same errors as `stream`; a cut answer is an error, never a short one.
        """
        started = self._clock.monotonic()
        async with self.stream(request, deadline) as answer:
            raw = b"".join([block async for block in answer.blocks])
        fold = Fold()
        for event in EventSplitter().feed(raw):
            if not event.is_done:
                fold.add(read_chunk(event))
        if fold.finish_reason is None:
            detail = "The engine ended the answer without a finish reason."
            raise GenerationInterrupted(detail)
        timings = {
            "queue": round(answer.queue_seconds, 6),
            "total": round(self._clock.monotonic() - started, 6),
        }
        return fold.completion(answer.origin), timings
