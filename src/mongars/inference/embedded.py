"""The embedded provider: a slot table of engines in this process, for when no other provider answers."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from mongars.core.errors import (
    AdapterUnavailable,
    AdapterUnknown,
    DeadlineExceeded,
    NotReady,
    WorldError,
)
from mongars.engines.slot_table import SlotTable
from mongars.inference.provider import (
    Attempts,
    ProviderName,
    ProviderState,
    ProviderStatus,
    ProviderStream,
)
from mongars.inference.streams.decoding import SseDecoder
from mongars.inference.streams.reader import AnswerReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.core.deadline import Deadline
    from mongars.core.generation import GenerationRequest
    from mongars.engines.engine import Engine, EngineState
    from mongars.engines.queued_engine import QueuedEngine
    from mongars.inference.config import InferenceConfig

ENDPOINT = "in-process"
WAITING = 16
"""Requests that may wait for a slot of each engine."""
IDLE_SECONDS = 300.0
"""After so long without a request, the engines are stopped and their memory is freed."""

_STATES: dict[EngineState, ProviderState] = {
    "stopped": "unknown",
    "starting": "unknown",
    "ready": "up",
    "restarting": "down",
    "failed": "down",
}


class Embedded:
    """Answers with engines that are started when a request needs them and stopped when idle.

    An engine is started by `run`, not by the request that needs it: a request that is cancelled does
    not stop the start, and other requests wait for the same one.
    """

    name: ProviderName = "embedded"
    local = True

    def __init__(
        self,
        engine: Engine,
        config: InferenceConfig,
        *,
        context_tokens: int | None = None,
        waiting: int = WAITING,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        """`engine`: the active one. `context_tokens`: the context window it is configured with."""
        self.slot_table = SlotTable(max_waiting=waiting)
        self.slot_table.add("general", engine)
        self._config = config
        self._context_tokens = context_tokens
        self._idle_seconds = idle_seconds
        self._used_at = 0.0
        self._changing = asyncio.Lock()
        self._to_start: asyncio.Queue[QueuedEngine] = asyncio.Queue()
        self._starts: dict[QueuedEngine, asyncio.Future[WorldError | None]] = {}
        """The starts that requests wait for."""

    @asynccontextmanager
    async def open(
        self, request: GenerationRequest, deadline: Deadline, attempts: Attempts
    ) -> AsyncIterator[ProviderStream]:
        """Begin an answer; see `Provider.open`.

        Raises what `Admission.slot` raises, too, and `AdapterUnavailable` for an adapter that this
        process does not hold: another one never answers instead.
        """
        async with AsyncExitStack() as stack:
            try:
                queued = await stack.enter_async_context(self.slot_table.lease(request))
            except AdapterUnknown as exc:
                raise AdapterUnavailable(str(exc)) from exc
            complete = self._complete(request, queued)
            admitted = await stack.enter_async_context(queued.admit(complete, deadline))
            attempts.add()
            try:
                with attempts.waiting():
                    async with asyncio.timeout(deadline.remaining()):
                        await self._ready(queued)
                        blocks = await stack.enter_async_context(admitted.stream())
                        reader = AnswerReader(
                            blocks,
                            SseDecoder(),
                            origin=queued.engine.origin,
                            idle=self._config.idle_timeout,
                            deadline=deadline,
                            choices=complete.sampling.n,
                        )
                        await reader.commit()
            except TimeoutError as exc:
                detail = "The embedded engine began no answer before the deadline."
                raise DeadlineExceeded(detail) from exc
            try:
                yield ProviderStream(
                    origin=reader.origin,
                    endpoint=ENDPOINT,
                    chunks=reader,
                    continued=complete.continue_from is not None,
                )
            finally:
                self._used_at = asyncio.get_running_loop().time()

    async def context_tokens(self) -> int | None:
        """As configured."""
        return self._context_tokens

    async def run(self) -> None:
        """Start each engine when a request needs it; stop all of them when they are idle."""
        try:
            while True:
                try:
                    async with asyncio.timeout(self._idle_seconds / 2):
                        queued = await self._to_start.get()
                except TimeoutError:
                    await self._stop_if_idle()
                    continue
                if queued in self._starts:  # else a `run` that ended has reported it already
                    self._finish_start(queued, await _start(queued.engine))
        finally:
            for queued in tuple(self._starts):
                self._finish_start(queued, NotReady("The embedded engine is being shut down."))

    async def status(self) -> ProviderStatus:
        """The state of the active engine."""
        found = self.slot_table.active("general").engine.status
        words = {"stopped": "not started; starts when first needed"}
        detail = found.detail or words.get(found.state, "")
        return ProviderStatus(name=self.name, state=_STATES[found.state], detail=detail)

    def drain(self, endpoint_id: str) -> bool:  # noqa: ARG002 (the port's signature)
        """It has no endpoints to choose from."""
        return False

    def reset(self, endpoint_id: str) -> bool:  # noqa: ARG002 (the port's signature)
        """It has no endpoints to choose from."""
        return False

    async def aclose(self) -> None:
        """Stop the engines."""
        await self.slot_table.aclose()

    def _complete(self, request: GenerationRequest, queued: QueuedEngine) -> GenerationRequest:
        weight = self._config.share(request.scope).weight
        weighted = dataclasses.replace(request, weight=weight)
        return queued.complete(weighted, self._config.sampling)

    async def _ready(self, queued: QueuedEngine) -> None:
        """Wait until the engine can answer, starting it if it is stopped. Raises why it cannot."""
        async with self._changing:  # held for long only while the engines are being stopped
            if queued.engine.status.state in {"ready", "restarting"}:
                return  # while it restarts, the engine itself raises `NotReady`
            started = self._starts.get(queued)
            if started is None:
                started = asyncio.get_running_loop().create_future()
                self._starts[queued] = started
                self._to_start.put_nowait(queued)
        error = await asyncio.shield(started)
        if error is not None:
            raise error

    async def _stop_if_idle(self) -> None:
        async with self._changing:
            # A request that comes from here on waits in `_ready` until the engines are stopped.
            if asyncio.get_running_loop().time() - self._used_at >= self._idle_seconds:
                await self.slot_table.stop_unused()

    def _finish_start(self, queued: QueuedEngine, outcome: WorldError | None) -> None:
        self._starts.pop(queued).set_result(outcome)


async def _start(engine: Engine) -> WorldError | None:
    try:
        await engine.start()
    except WorldError as error:
        return error
    return None
