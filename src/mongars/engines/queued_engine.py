"""An engine with a queue of requests in front of it."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from mongars.core.errors import NotReady
from mongars.engines.admission import Admission
from mongars.engines.choices import stream_choices
from mongars.engines.structured import stream_checked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.core.deadline import Deadline
    from mongars.core.generation import GenerationRequest, Sampling
    from mongars.engines.engine import ByteStream, Engine

RETRY_AFTER = 1.0
"""Seconds after which a client may retry when the engine was not ready."""


class QueuedEngine:
    """Sends as many requests to an engine as it has slots; further ones wait in a queue or are refused."""

    def __init__(self, engine: Engine, *, max_waiting: int) -> None:
        """`max_waiting`: how many requests may wait for a slot; further ones are refused with `Overloaded`."""
        self.engine = engine
        self.admission = Admission(slots=engine.slots, max_waiting=max_waiting)

    def check_ready(self) -> None:
        """Raise `NotReady` unless the engine's state is `ready`."""
        status = self.engine.status
        if status.state != "ready":
            detail = f"The engine is {status.state}."
            raise NotReady(detail, retry_after=RETRY_AFTER)

    def complete(self, request: GenerationRequest, defaults: Sampling) -> GenerationRequest:
        """A copy of `request` with unset sampling parameters filled in and an unusable `continue_from` removed.

        Sampling parameters that are None are taken from `defaults`. `continue_from` is kept only if the engine can
        continue a text and the same model and adapter generated its beginning; otherwise it becomes None, and the
        answer is generated from the start.
        """
        kept = request.continue_from
        if not (self.engine.continues and kept is not None and kept.was_from(self.engine.origin)):
            kept = None
        sampling = request.sampling.with_defaults(defaults)
        return replace(request, sampling=sampling, continue_from=kept)

    @asynccontextmanager
    async def admit(
        self, request: GenerationRequest, deadline: Deadline
    ) -> AsyncIterator[AdmittedRequest]:
        """Wait for a slot and hold it; leaving the context frees every slot of the request.

        Raises `Overloaded` if the queue is full or too long for the deadline, `DeadlineExceeded` if the deadline passes
        while waiting.
        """
        async with AsyncExitStack() as slot:
            waited = await slot.enter_async_context(self.admission.slot(deadline, request.share))
            yield AdmittedRequest(self, request, deadline=deadline, slot=slot, waited=waited)


class AdmittedRequest:
    """A request that holds a slot of an engine, ready to be answered."""

    def __init__(
        self,
        queued: QueuedEngine,
        request: GenerationRequest,
        *,
        deadline: Deadline,
        slot: AsyncExitStack,
        waited: float,
    ) -> None:
        self._queued = queued
        self._request = request
        self._deadline = deadline
        self._slot: AsyncExitStack | None = slot
        self.waited = waited
        """Seconds that the request waited for its slot; of several choices, the longest wait so far."""

    def stream(self) -> ByteStream:
        """Generate the answer as server-sent events, as `Engine.stream` describes.

        Of several choices, the first uses the slot held; each further one waits for a slot of its own. If the finished
        text violates the JSON schema of the request, the stream ends with an error.
        """
        engine = self._queued.engine
        if self._request.sampling.n == 1:
            return stream_checked(engine, self._request)
        return stream_choices(self._request, self._stream_choice, at_once=engine.slots)

    @asynccontextmanager
    async def _stream_choice(
        self, choice: GenerationRequest
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        async with AsyncExitStack() as stack:
            if self._slot is not None:
                # Moved to this choice's stack, so that the slot is freed when the choice has ended.
                held, self._slot = self._slot.pop_all(), None
                await stack.enter_async_context(held)
            else:
                admission = self._queued.admission
                slot = admission.slot(self._deadline, choice.share, admitted=True)
                self.waited = max(self.waited, await stack.enter_async_context(slot))
            engine = self._queued.engine
            yield await stack.enter_async_context(stream_checked(engine, choice))
