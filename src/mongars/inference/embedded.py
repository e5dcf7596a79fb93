"""The embedded provider: engines in this process that answer when no other provider does."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from mongars.core.errors import (
    AdapterUnavailable,
    AdapterUnknown,
    DeadlineExceeded,
)
from mongars.engines.slot_table import SlotTable
from mongars.inference.provider import (
    Attempts,
    ProviderName,
    ProviderState,
    ProviderStatus,
    ProviderStream,
)
from mongars.inference.start_on_demand import IDLE_SECONDS, StartOnDemand
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
"""Maximum number of requests that wait for one engine."""

_STATES: dict[EngineState, ProviderState] = {
    "stopped": "unknown",
    "starting": "unknown",
    "ready": "up",
    "restarting": "down",
    "failed": "down",
}


class Embedded:
    """The provider that generates with this process's engines, started when needed and stopped when idle.

    If a request is cancelled while an engine starts for it, the start goes on.
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
        """`engine` answers requests that demand no adapter; engines with adapters can be added later to `slot_table`.

        `config`: where the weights of accounts in the queue come from. `waiting`: maximum number of requests that wait
        for each engine; further ones get `Overloaded`. `context_tokens`: the configured context window of `engine` in
        tokens; None if unknown. `idle_seconds`: seconds without requests after which the engines are stopped.
        """
        self.slot_table = SlotTable(max_waiting=waiting)
        self.slot_table.add("general", engine)
        self._config = config
        self._context_tokens = context_tokens
        self._on_demand = StartOnDemand(self.slot_table.stop_unused, idle_seconds=idle_seconds)

    @asynccontextmanager
    async def open(
        self, request: GenerationRequest, deadline: Deadline, attempts: Attempts
    ) -> AsyncIterator[ProviderStream]:
        """Context manager of a started answer; entered once its first content has arrived. Exit stops the generation.

        `deadline`: the time by which the answer must be complete; `attempts` counts the request. Entering raises
        `Overloaded` if the queue is full or too long for the deadline, `DeadlineExceeded` if no answer starts in time,
        `AdapterUnavailable` if this process has no engine with the requested adapter, or the error with which the
        engine failed. If the deadline passes later, iteration raises `GenerationInterrupted`.
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
                        await self._on_demand.ready(queued.engine)
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
                self._on_demand.record_use()

    async def context_tokens(self) -> int | None:
        """The configured context window in tokens; None if none is configured."""
        return self._context_tokens

    async def run(self) -> None:
        """Start engines when requests need them, and stop those that are idle, until cancelled."""
        await self._on_demand.run()

    async def status(self) -> ProviderStatus:
        """The state of the engine in use for the `general` model role.

        `up` if it is ready, `down` while it restarts or after a failed start, `unknown` while it is stopped or
        starting.
        """
        found = self.slot_table.active("general").engine.status
        words = {"stopped": "not started; starts when first needed"}
        detail = found.detail or words.get(found.state, "")
        return ProviderStatus(name=self.name, state=_STATES[found.state], detail=detail)

    def drain(self, endpoint_id: str) -> bool:  # noqa: ARG002 (the port's signature)
        """Always False: this provider has no endpoints to drain."""
        return False

    def reset(self, endpoint_id: str) -> bool:  # noqa: ARG002 (the port's signature)
        """Always False: this provider has no endpoints to reset."""
        return False

    async def aclose(self) -> None:
        """Stop all engines and release their memory; answers that are being generated are cut."""
        await self.slot_table.aclose()

    def _complete(self, request: GenerationRequest, queued: QueuedEngine) -> GenerationRequest:
        weight = self._config.share(request.scope).weight
        weighted = dataclasses.replace(request, weight=weight)
        return queued.complete(weighted, self._config.sampling)
