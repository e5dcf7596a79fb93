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
    """An engine with a queue: sends it as many requests at a time as it has slots; further ones wait or are refused.

    It is no `Engine` itself: enter `admit` to wait for a slot, then `stream` of the object that it yields.
    """

    def __init__(self, engine: Engine, *, max_waiting: int) -> None:
        """`max_waiting`: how many requests may wait for an engine's slot; further ones are refused (`Overloaded`)."""
        self.engine = engine
        self.admission = Admission(slots=engine.slots, max_waiting=max_waiting)

    def check_ready(self) -> None:
        """Raise `NotReady` (`retry_after` 1 s) unless the engine's state is `ready`."""
        status = self.engine.status
        if status.state != "ready":
            detail = f"The engine is {status.state}."
            raise NotReady(detail, retry_after=RETRY_AFTER)

    def complete(self, request: GenerationRequest, defaults: Sampling) -> GenerationRequest:
        """A copy of `request` with unset sampling parameters filled in and an unusable `continue_from` removed.

        `max_tokens`, `temperature` and `top_p` are taken from `defaults` where they are None. `continue_from` (the
        beginning of an answer that broke off) is kept only if this engine can continue a text, and its model and
        adapter are those that generated the beginning; otherwise it becomes None, and the answer is generated from the
        start.
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
        """Wait for one of the engine's slots and hold it; leaving the context frees every slot of the request.

        Yields the object whose `stream` generates the answer. Raises `Overloaded` (with `retry_after` in seconds) if
        the queue is full or the expected wait exceeds the deadline, `DeadlineExceeded` if the deadline passes while
        waiting.
        """
        async with AsyncExitStack() as slot:
            waited = await slot.enter_async_context(self.admission.slot(deadline, request.share))
            yield AdmittedRequest(self, request, deadline=deadline, slot=slot, waited=waited)


class AdmittedRequest:
    """A request to which `QueuedEngine.admit` gave one of the engine's slots; its answer can be generated once.

    `waited`: the seconds that it waited for its slot; of several choices, the longest wait so far.
    """

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
        """Generate the answer; a context whose value yields it as server-sent events, in bytes. Call it once.

        The events are OpenAI `chat.completion.chunk` objects, then one with the token counts, then `[DONE]`; a block
        of bytes may begin or end inside an event. If the request asks for several choices (`n` above 1), the first
        uses the slot held; each further one waits for a slot of its own.

        Entering raises a `CallerError` for an unusable request, else a `WorldError` such as `NotReady`. Iterating
        raises `GenerationInterrupted` if the answer is cut or its text violates the JSON schema of the request, but
        `InvalidRequest` if there is one choice and a stop text may be the cause of the violation, and
        `DeadlineExceeded` if a further choice waits too long.
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
