"""One replica, without Ray: engines behind admission, answering whole or as a stream."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mongars.core.deadline import Deadline
from mongars.core.errors import (
    DeadlineExceeded,
    GenerationInterrupted,
    NotFound,
)
from mongars.core.generation import task_role
from mongars.engines.admission import Admission
from mongars.engines.choices import stream_choices
from mongars.protocol.accumulate import AnswerAccumulator
from mongars.protocol.openai import read_chunk
from mongars.protocol.sse import EventSplitter
from mongars.serving.backend import Backend
from mongars.serving.config import EmbeddingSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from mongars.core.clock import Clock
    from mongars.core.generation import Completion, GenerationRequest, Origin, TaskRole
    from mongars.engines.embedder import Embedder, Embeddings
    from mongars.engines.engine import Engine, EngineStatus
    from mongars.serving.config import ReplicaConfig, SamplingDefaults

_WORST = ("ready", "starting", "restarting", "stopped", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStream:
    """An answer on its way: who gives it, how long it waited (seconds), and its bytes."""

    origin: Origin
    queue_seconds: float
    continued: bool
    blocks: AsyncIterator[bytes]


class Replica:
    """Owns the engines of its roles; knows nothing of HTTP."""

    def __init__(
        self,
        engines: Mapping[TaskRole, Engine],
        config: ReplicaConfig,
        *,
        clock: Clock,
        replica_id: str,
        embedder: Embedder | None = None,
    ) -> None:
        self._backends = {
            role: Backend(engine, max_waiting=config.max_waiting)
            for role, engine in engines.items()
        }
        self._embedder = embedder
        spec = config.embedding or EmbeddingSpec()
        self._reading = Admission(slots=spec.slots, max_waiting=config.max_waiting)
        self._config = config
        self.clock = clock
        self._defaults = config.sampling.to_sampling()
        self.replica_id = replica_id

    @property
    def config(self) -> ReplicaConfig:
        """What it was made with."""
        return self._config

    def origin(self, task_type: str = "general") -> Origin:
        """Who answers such a task: the engine's own word, plus this replica's name."""
        return replace(self._backend(task_type).engine.origin, replica=self.replica_id)

    @property
    def models(self) -> tuple[str, ...]:
        """The names of its models, the general one first."""
        names = [backend.engine.origin.model for backend in self._backends.values()]
        return (*names, *([] if self._embedder is None else [self._embedder.model]))

    @property
    def embedding_model(self) -> str | None:
        """The name of the model behind its vectors, if it has one."""
        return None if self._embedder is None else self._embedder.model

    @property
    def engine_status(self) -> EngineStatus:
        """The state of its engines now: of the one that is furthest from answering."""
        found = [backend.engine.status for backend in self._backends.values()]
        if self._embedder is not None:
            found.append(self._embedder.status)
        return max(found, key=lambda status: _WORST.index(status.state))

    @property
    def load(self) -> dict[str, int]:
        """Slots, requests being answered and requests waiting."""
        backends = self._backends.values()
        queues = [self._reading, *(backend.admission for backend in backends)]
        return {
            "slots": sum(backend.engine.slots for backend in backends),
            "active": sum(queue.active for queue in queues),
            "waiting": sum(queue.waiting for queue in queues),
        }

    async def start(self) -> None:
        """Start the engines. Raises `InferenceFailed` with the reason if one cannot.

        Then none of the others is left running.
        """
        async with AsyncExitStack() as started:
            for part in self._parts:
                started.push_async_callback(part.aclose)
                await part.start()
            started.pop_all()

    async def aclose(self) -> None:
        """Stop the engines, every one of them even if one of them fails to."""
        async with AsyncExitStack() as stopping:
            for part in self._parts:
                stopping.push_async_callback(part.aclose)

    @property
    def _parts(self) -> list[Engine | Embedder]:
        engines: list[Engine | Embedder] = [each.engine for each in self._backends.values()]
        return engines if self._embedder is None else [*engines, self._embedder]

    def use_defaults(self, sampling: SamplingDefaults) -> None:
        """Take new sampling defaults for the requests to come."""
        self._defaults = sampling.to_sampling()

    def deadline(self, milliseconds: float | None) -> Deadline:
        """The caller's deadline, or the longest time any answer may take."""
        limit = self._config.answer_timeout
        seconds = limit if milliseconds is None else min(milliseconds / 1000, limit)
        return Deadline.after(self.clock, seconds)

    async def embed(self, texts: Sequence[str], deadline: Deadline) -> Embeddings:
        """Vectors of texts.

        Raises `NotFound` where no embedding model is configured, what `Admission.slot` and
        `Embedder.embed` raise, and `DeadlineExceeded`.
        """
        if self._embedder is None:
            detail = "No embedding model is served here; see RAY_EMBEDDING_MODEL."
            raise NotFound(detail)
        async with self._reading.slot(deadline):
            try:
                async with asyncio.timeout(deadline.remaining()):
                    return await self._embedder.embed(texts)
            except TimeoutError as exc:
                detail = "The deadline passed before the embeddings were complete."
                raise DeadlineExceeded(detail) from exc

    @asynccontextmanager
    async def stream(
        self, request: GenerationRequest, deadline: Deadline
    ) -> AsyncIterator[ReplicaStream]:
        """Answer one request; leaving the context frees its slots, in the queue or the engine.

        Raises what `Admission.slot` and `Engine.stream` raise before the first byte;
        `GenerationInterrupted` or `DeadlineExceeded` while iterating.
        """
        backend = self._backend(request.task_type)
        backend.check_ready()
        begun = request.continue_from
        origin = self.origin(request.task_type)
        continued = begun is not None and backend.engine.continues and begun.was_from(origin)
        complete = replace(
            request,
            sampling=request.sampling.with_defaults(self._defaults),
            continue_from=begun if continued else None,
        )
        waits: list[float] = []
        opened_one = False

        @asynccontextmanager
        async def open_one(one: GenerationRequest) -> AsyncIterator[AsyncIterator[bytes]]:
            nonlocal opened_one
            admitted, opened_one = opened_one, True
            async with backend.stream(one, deadline, admitted=admitted) as (waited, blocks):
                waits.append(waited)
                yield blocks

        several = request.sampling.n > 1
        slots = backend.engine.slots
        opened = (
            stream_choices(complete, open_one, at_once=slots) if several else open_one(complete)
        )
        async with opened as blocks:
            yield ReplicaStream(
                origin=self.origin(request.task_type),
                queue_seconds=max(waits),
                continued=continued,
                blocks=blocks,
            )

    async def complete(
        self, request: GenerationRequest, deadline: Deadline
    ) -> tuple[Completion, dict[str, float]]:
        """The whole answer and its timings in seconds (`queue`, `total`).

        Raises the same errors as `stream`; a cut answer is an error, never a short one.
        """
        started = self.clock.monotonic()
        async with self.stream(replace(request, continue_from=None), deadline) as answer:
            raw = b"".join([block async for block in answer.blocks])
        fold = AnswerAccumulator(request.sampling.n)
        for event in EventSplitter().feed(raw):
            if not event.is_done:
                fold.add(read_chunk(event))
        if not fold.finished:
            detail = "The engine ended the answer without a finish reason."
            raise GenerationInterrupted(detail)
        timings = {
            "queue": round(answer.queue_seconds, 6),
            "total": round(self.clock.monotonic() - started, 6),
        }
        return fold.completion(answer.origin), timings

    def _backend(self, task_type: str) -> Backend:
        return self._backends.get(task_role(task_type)) or self._backends["general"]
