"""The embedded provider: an engine of this very process's own, the last one left standing."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from mongars.core.errors import DeadlineExceeded, NotReady, WorldError
from mongars.engines.admission import Admission
from mongars.engines.choices import OpenChoice, stream_choices
from mongars.engines.structured import stream_checked
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
    from mongars.engines.engine import ByteStream, Engine, EngineState
    from mongars.inference.config import InferenceConfig

ENDPOINT = "in-process"
WAITING = 16
IDLE_SECONDS = 300.0
"""Unused for so long, the engine is stopped and its memory given back."""

_STATES: dict[EngineState, ProviderState] = {
    "stopped": "unknown",
    "starting": "unknown",
    "ready": "up",
    "restarting": "down",
    "failed": "down",
}


class Embedded:
    """Answers with an engine that is started when it is needed and stopped when it is not.

    The start belongs to `run`, not to the request that asked for it: a caller who gives up does
    not undo it, and those who come meanwhile wait for the same start.
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
        """`context_tokens`: what the engine was configured to hold."""
        self._engine = engine
        self._config = config
        self._context_tokens = context_tokens
        self._idle_seconds = idle_seconds
        self._used_at = 0.0
        self._changing = asyncio.Lock()
        self._admission = Admission(slots=engine.slots, max_waiting=waiting)
        self._wanted = asyncio.Event()
        self._started: asyncio.Future[WorldError | None] | None = None

    @asynccontextmanager
    async def open(
        self, request: GenerationRequest, deadline: Deadline, attempts: Attempts
    ) -> AsyncIterator[ProviderStream]:
        """Begin an answer; see `Provider.open`.

        Raises what `Admission.slot` raises, too.
        """
        begun = request.continue_from
        origin = self._engine.origin
        continued = begun is not None and self._engine.continues and begun.was_from(origin)
        filled = dataclasses.replace(
            request,
            sampling=request.sampling.with_defaults(self._config.sampling),
            continue_from=begun if continued else None,
        )
        share = self._config.share(request.scope)
        async with AsyncExitStack() as stack:
            # The first choice of several begins in this slot; each further one waits for its own.
            slot = await stack.enter_async_context(AsyncExitStack())
            await slot.enter_async_context(self._admission.slot(deadline, share))
            attempts.add()
            try:
                with attempts.waiting():
                    async with asyncio.timeout(deadline.remaining()):
                        await self._ready()
                        open_one = partial(self._in_slot, [slot], deadline)
                        opened = self._stream(filled, open_one)
                        blocks = await stack.enter_async_context(opened)
                        reader = self._reader(blocks, deadline, choices=filled.sampling.n)
                        await reader.commit()
            except TimeoutError as exc:
                detail = "The embedded engine began no answer before the time was up."
                raise DeadlineExceeded(detail) from exc
            try:
                yield ProviderStream(
                    origin=reader.origin, endpoint=ENDPOINT, chunks=reader, continued=continued
                )
            finally:
                self._used_at = asyncio.get_running_loop().time()

    async def context_tokens(self) -> int | None:
        """As configured."""
        return self._context_tokens

    async def run(self) -> None:
        """Start the engine whenever somebody waits for it, stop it when nobody has for long."""
        try:
            while True:
                try:
                    async with asyncio.timeout(self._idle_seconds / 2):
                        await self._wanted.wait()
                except TimeoutError:
                    await self._stop_if_idle()
                    continue
                self._wanted.clear()
                self._tell(await self._start())
        finally:
            self._tell(NotReady("The embedded engine is being shut down."))

    async def status(self) -> ProviderStatus:
        """The engine's own word."""
        found = self._engine.status
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
        """Stop the engine."""
        await self._engine.aclose()

    def _stream(self, request: GenerationRequest, open_one: OpenChoice) -> ByteStream:
        if request.sampling.n > 1:
            return stream_choices(request, open_one, at_once=self._engine.slots)
        return stream_checked(self._engine, request)

    @asynccontextmanager
    async def _in_slot(
        self, held: list[AsyncExitStack], deadline: Deadline, request: GenerationRequest
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """One choice of several, in the slot that is held already or in another one."""
        share = self._config.share(request.scope)
        async with AsyncExitStack() as stack:
            if held:
                await stack.enter_async_context(held.pop().pop_all())
            else:
                slot = self._admission.slot(deadline, share, admitted=True)
                await stack.enter_async_context(slot)
            yield await stack.enter_async_context(stream_checked(self._engine, request))

    def _reader(
        self, blocks: AsyncIterator[bytes], deadline: Deadline, *, choices: int
    ) -> AnswerReader:
        origin = self._engine.origin
        return AnswerReader(
            blocks,
            SseDecoder(),
            origin=origin,
            idle=self._config.idle_timeout,
            deadline=deadline,
            choices=choices,
        )

    async def _ready(self) -> None:
        async with self._changing:  # held for long only while the engine is being stopped
            if self._engine.status.state in {"ready", "restarting"}:
                return  # a restart is the engine's own business: it says `NotReady` meanwhile
            if self._started is None or self._started.done():
                self._started = asyncio.get_running_loop().create_future()
                self._wanted.set()
            started = self._started
        error = await asyncio.shield(started)
        if error is not None:
            raise error

    async def _stop_if_idle(self) -> None:
        async with self._changing:
            # Whoever takes a slot from here on waits in `_ready` until the engine is stopped.
            in_use = self._admission.active or self._admission.waiting
            idle = asyncio.get_running_loop().time() - self._used_at
            if not in_use and idle >= self._idle_seconds and self._engine.status.state == "ready":
                await self._engine.aclose()

    def _tell(self, outcome: WorldError | None) -> None:
        if self._started is not None and not self._started.done():
            self._started.set_result(outcome)

    async def _start(self) -> WorldError | None:
        try:
            await self._engine.start()
        except WorldError as error:
            return error
        return None
