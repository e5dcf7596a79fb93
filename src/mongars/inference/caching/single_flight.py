"""One answer in the making, for everybody who asks the same meanwhile.

The answer is read in a task that belongs to the generation, not to whoever asked first: it goes on as
long as anybody listens, and is cancelled when the last one leaves. Chunks are kept in one list.
Each listener reads it from the start at their own pace, so that a slow one holds up nobody.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

from mongars.core.background import Background
from mongars.core.errors import (
    AllProvidersFailed,
    DeadlineExceeded,
    GenerationInterrupted,
    MongarsError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from mongars.core.deadline import Deadline
    from mongars.core.generation import Chunk, Usage
    from mongars.inference.chain import AnswerStream
    from mongars.inference.provider import StreamState


class SharedGeneration:
    """Reads one answer from its beginning to its end; `subscribe` keeps it going."""

    def __init__(
        self,
        opening: AbstractAsyncContextManager[AnswerStream],
        *,
        deadline: Deadline,
        on_start: Callable[[AnswerStream], None],
        on_end: Callable[[SharedGeneration], None],
    ) -> None:
        """`on_start` and `on_end` are called once each, `on_end` also if nobody listens any more."""
        self._opening = opening
        self._deadline = deadline
        self._on_start = on_start
        self._on_end = on_end
        self._changed = asyncio.Event()
        self._subscribers = 0
        self._work = Background(self._run, name="answer-generation")
        self._over = False
        self.time_budget = deadline.remaining()
        """Seconds it had in all."""
        self.answer: AnswerStream | None = None
        """Set once its first content is here."""
        self.chunks: list[Chunk] = []
        self.complete = False
        self.failure: MongarsError | None = None

    @property
    def timed_out(self) -> bool:
        """Whether it failed because its time was up, so that more time might have helped."""
        error = self.failure
        causes = (
            [cause for _, cause in error.causes] if isinstance(error, AllProvidersFailed) else []
        )
        slow = any(isinstance(cause, DeadlineExceeded) for cause in (error, *causes))
        return error is not None and (slow or self._deadline.expired())

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[SharedGeneration]:
        """Keep it going, and start it if it is new."""
        self._subscribers += 1
        if not self._over:
            self._work.start()
        try:
            yield self
        finally:
            self._subscribers -= 1
            if not self._subscribers:
                await self._close()

    async def started(self, deadline: Deadline) -> AnswerStream:
        """The answer, once its first content is here.

        Raises why there is none, or `DeadlineExceeded` if this listener's own time was up first.
        """
        while self.answer is None:
            if self.failure is not None:
                raise self.failure
            await self.wait_for_progress(deadline)
        return self.answer

    async def wait_for_progress(self, deadline: Deadline) -> None:
        """Wait until there is more of it, or its end.

        Raises `DeadlineExceeded`, or the bug that ended it. Who has at least as much time as the
        generation need not look at the clock: it ends in time by itself.
        """
        if self._over:
            await self._work.finished()
        patience = None if deadline.at >= self._deadline.at else deadline.remaining()
        try:
            async with asyncio.timeout(patience):
                await self._changed.wait()
        except TimeoutError as exc:
            detail = "No time left to wait for the answer to an equal question."
            raise DeadlineExceeded(detail) from exc

    async def _run(self) -> None:
        try:
            async with self._opening as answer:
                self._on_start(answer)
                self.answer = answer
                self._notify()
                async for chunk in answer:
                    self.chunks.append(chunk)
                    self._notify()
                self.complete = True
                self._end()  # listeners need not wait until the connection is put away
        except MongarsError as error:
            self.failure = error
        finally:
            self._end()

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._on_end(self)
            self._notify()

    def _notify(self) -> None:
        """Wake whoever waits now; who comes later waits for the next time."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _close(self) -> None:
        if self.complete:
            await self._work.finished()
            return
        self._end()
        await self._work.aclose()


class GenerationReader:
    """The generation's answer from its start, as a `ChunkStream`."""

    def __init__(self, generation: SharedGeneration, deadline: Deadline) -> None:
        self._generation = generation
        self._deadline = deadline
        self._next = 0
        self.state: StreamState = "open"
        self.usage: Usage | None = None

    @property
    def answer(self) -> AnswerStream | None:
        """The generation's own; None before it has started."""
        return self._generation.answer

    def ready(self) -> list[Chunk]:
        """What the generation has and this listener has not."""
        found = self._generation.chunks[self._next :]
        self._next += len(found)
        self.usage = next((c.usage for c in reversed(found) if c.usage is not None), self.usage)
        return found

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        generation = self._generation
        while self._next == len(generation.chunks):
            if generation.complete:
                self.state = "complete"
                raise StopAsyncIteration
            await self._wait(generation)
        chunk = generation.chunks[self._next]
        self._next += 1
        self.usage = chunk.usage or self.usage
        return chunk

    async def _wait(self, generation: SharedGeneration) -> None:
        try:
            if generation.failure is not None:
                raise generation.failure
            await generation.wait_for_progress(self._deadline)
        except MongarsError as error:
            self.state = "cut"
            raise GenerationInterrupted(str(error)) from error
