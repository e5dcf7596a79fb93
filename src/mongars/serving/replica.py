"""One replica, independent of Ray and HTTP: a slot table of engines that answers requests whole or as a stream."""

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
from mongars.core.fair_queue import EVERYBODY
from mongars.engines.admission import Admission
from mongars.engines.slot_table import SlotTable
from mongars.protocol.accumulate import AnswerAccumulator
from mongars.protocol.openai import read_chunk
from mongars.protocol.sse import EventSplitter
from mongars.serving.config import EmbeddingSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from mongars.core.clock import Clock
    from mongars.core.fair_queue import Share
    from mongars.core.generation import Completion, GenerationRequest, Origin, TaskRole
    from mongars.engines.embedder import Embedder, Embeddings
    from mongars.engines.engine import Engine, EngineStatus
    from mongars.serving.config import ReplicaConfig, SamplingDefaults

_WORST = ("ready", "starting", "restarting", "stopped", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStream:
    """A streamed answer of a `Replica`, and how it is generated.

    `blocks` yields server-sent events as bytes: OpenAI `chat.completion.chunk` objects, then one with the token
    counts, then `[DONE]`; a block may begin or end inside an event. `origin`: model, engine and adapter, as the engine
    reports them, with the id of the replica. `queue_seconds`: how long the request waited for a slot. `continued`:
    whether the answer continues the text in the request's `continue_from`; else it is generated from the start.
    """

    origin: Origin
    queue_seconds: float
    continued: bool
    blocks: AsyncIterator[bytes]


class Replica:
    """The engines and the embedder of one Ray Serve replica: answers requests and embeds texts, independent of HTTP."""

    def __init__(
        self,
        engines: Mapping[TaskRole, Engine],
        config: ReplicaConfig,
        *,
        clock: Clock,
        replica_id: str,
        embedder: Embedder | None = None,
    ) -> None:
        """`engines`: for each model role, such as `general`, the engine that answers its requests. `start` starts them.

        `replica_id`: the id of the replica in Ray Serve. `embedder` None: no embeddings are served.
        """
        self.slot_table = SlotTable(max_waiting=config.max_waiting)
        for role, engine in engines.items():
            self.slot_table.add(role, engine)
        self._embedder = embedder
        spec = config.embedding or EmbeddingSpec()
        self._reading = Admission(slots=spec.slots, max_waiting=config.max_waiting)
        self._config = config
        self.clock = clock
        self._defaults = config.sampling.to_sampling()
        self.replica_id = replica_id

    @property
    def config(self) -> ReplicaConfig:
        """The configuration given to the constructor. `use_defaults` does not change it."""
        return self._config

    def origin(self, task_type: str = "general") -> Origin:
        """Model, engine and adapter that would answer a request of `task_type` that arrives now and demands no adapter.

        `task_type`: `code`, `coding` or `developer` for the coding engine, if there is one; otherwise it is the
        general one. `ReplicaStream.origin` has those that did answer a request; they may differ. Raises `NotReady` if
        there is neither.
        """
        return self._named(self.slot_table.active(task_type).engine.origin)

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models that answer requests without a demanded adapter, the embedding model last.

        The others are in the order of the constructor's `engines`. A name may occur twice.
        """
        names = [queued.engine.origin.model for queued in self.slot_table.actives]
        return (*names, *([] if self._embedder is None else [self._embedder.model]))

    @property
    def embedding_model(self) -> str | None:
        """The name of the embedding model; None: no embeddings are served."""
        return None if self._embedder is None else self._embedder.model

    @property
    def engine_status(self) -> EngineStatus:
        """The status of the engine or embedder that is in the worst state.

        From best to worst: `ready`, `starting`, `restarting`, `stopped`, `failed`. Engines that serve only requests
        that demand their adapter are left out: if one fails, the replica still answers.
        """
        return max(self._statuses, key=lambda status: _WORST.index(status.state))

    @property
    def engine_restarts(self) -> int:
        """The number of automatic restarts of the engines and the embedder together.

        Engines that serve only requests that demand their adapter are left out.
        """
        return sum(status.restarts for status in self._statuses)

    @property
    def _statuses(self) -> list[EngineStatus]:
        found = [queued.engine.status for queued in self.slot_table.actives]
        return found if self._embedder is None else [*found, self._embedder.status]

    @property
    def load(self) -> dict[str, int]:
        """The load now, in requests: a dictionary with `active`, `waiting` and `slots`.

        `active`: being answered, and `waiting`: in a queue; both include embeddings and count all engines. `slots`:
        how many requests are answered at a time by the engines that need no demanded adapter; it does not include
        embeddings.
        """
        load = self.slot_table.load
        return {
            "slots": load.slots,
            "active": load.active + self._reading.active,
            "waiting": load.waiting + self._reading.waiting,
        }

    async def start(self) -> None:
        """Start the engines and the embedder.

        Raises `InferenceFailed` with the reason if one cannot start; then all others are stopped again.
        """
        async with AsyncExitStack() as started:
            for part in self._parts:
                started.push_async_callback(part.aclose)
                await part.start()
            started.pop_all()

    async def aclose(self) -> None:
        """Stop every engine and the embedder, even if stopping one of them fails.

        Does not wait for running answers: their streams end with `GenerationInterrupted`.
        """
        async with AsyncExitStack() as stopping:
            for part in self._parts:
                stopping.push_async_callback(part.aclose)

    @property
    def _parts(self) -> list[SlotTable | Embedder]:
        table = self.slot_table
        return [table] if self._embedder is None else [table, self._embedder]

    def use_defaults(self, sampling: SamplingDefaults) -> None:
        """Use these sampling parameters for requests that begin from now on and do not set them."""
        self._defaults = sampling.to_sampling()

    def deadline(self, milliseconds: float | None) -> Deadline:
        """A deadline `milliseconds` from now, but no later than the configured `answer_timeout`.

        None: that timeout alone.
        """
        limit = self._config.answer_timeout
        seconds = limit if milliseconds is None else min(milliseconds / 1000, limit)
        return Deadline.after(self.clock, seconds)

    async def embed(
        self, texts: Sequence[str], deadline: Deadline, *, share: Share = EVERYBODY
    ) -> Embeddings:
        """Convert each text to a vector. `share` is the account and weight of the request in the queue.

        Raises:
            NotFound: no embedding model is configured.
            Overloaded: the queue is full or too long for the deadline; has `retry_after` in seconds.
            ContextLengthExceeded: a text does not fit the model's context window.
            NotReady: the embedder is not running.
            InferenceFailed: the model failed.
            DeadlineExceeded: the deadline passed while waiting or embedding.
        """
        if self._embedder is None:
            detail = "No embedding model is served here; see RAY_EMBEDDING_MODEL."
            raise NotFound(detail)
        async with self._reading.slot(deadline, share):
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
        """Answer one request as a stream; leaving the context stops the generation.

        Entering raises a `CallerError` for an unusable request, such as `AdapterUnknown` for an adapter that is not
        served; `NotReady` if the engine is not ready, `Overloaded` if its queue is full or too long for the deadline,
        `DeadlineExceeded` if `deadline` passes, and another `WorldError`, such as `InferenceFailed`, if the engine
        fails. After that, iterating raises `GenerationInterrupted` if the answer is cut or violates the JSON schema of
        the request (`InvalidRequest` if a stop text may be the cause). When `deadline` passes, reading is stopped, and
        the `async with` statement raises `DeadlineExceeded`.
        """
        async with self.slot_table.lease(request) as queued:
            queued.check_ready()
            complete = queued.complete(request, self._defaults)
            async with queued.admit(complete, deadline) as admitted:
                try:
                    async with (
                        asyncio.timeout(deadline.remaining()),
                        admitted.stream() as blocks,
                    ):
                        yield ReplicaStream(
                            origin=self._named(queued.engine.origin),
                            queue_seconds=admitted.waited,
                            continued=complete.continue_from is not None,
                            blocks=blocks,
                        )
                except TimeoutError as exc:
                    detail = "The deadline passed before the answer was complete."
                    raise DeadlineExceeded(detail) from exc

    async def complete(
        self, request: GenerationRequest, deadline: Deadline
    ) -> tuple[Completion, dict[str, float]]:
        """Answer one request and return the complete answer, with the timings `queue` and `total` in seconds.

        `queue` is the time waited for an engine. Ignores `continue_from`. Raises a `CallerError` for an unusable
        request, `NotReady` if the engine is not ready, `Overloaded` if its queue is full or too long for the deadline,
        `DeadlineExceeded` if `deadline` passes, and `InferenceFailed` if the engine fails; an answer that was cut
        raises `GenerationInterrupted` and is never returned in part.
        """
        started = self.clock.monotonic()
        async with self.stream(replace(request, continue_from=None), deadline) as answer:
            raw = b"".join([block async for block in answer.blocks])
        accumulated = AnswerAccumulator(request.sampling.n)
        for event in EventSplitter().feed(raw):
            if not event.is_done:
                accumulated.add(read_chunk(event))
        if not accumulated.finished:
            detail = "The engine ended the answer without a finish reason."
            raise GenerationInterrupted(detail)
        timings = {
            "queue": round(answer.queue_seconds, 6),
            "total": round(self.clock.monotonic() - started, 6),
        }
        return accumulated.completion(answer.origin), timings

    def _named(self, origin: Origin) -> Origin:
        return replace(origin, replica=self.replica_id)
