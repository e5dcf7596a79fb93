"""One generation shared by identical requests that arrive while it is in progress.

The answer is read in a task of its own, which runs while there are subscribers and is cancelled when the last
one leaves. Chunks are kept in one list, which each subscriber reads from the start at its own speed, so that a
slow client does not delay the others.
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
    """One answer that several identical requests read: its chunks are collected in the list `chunks`.

    The answer is read in a task, which runs while at least one `subscribe` context is entered.
    """

    def __init__(
        self,
        opening: AbstractAsyncContextManager[AnswerStream],
        *,
        deadline: Deadline,
        on_start: Callable[[AnswerStream], None],
        on_end: Callable[[SharedGeneration], None],
    ) -> None:
        """`opening`: context manager that generates the answer; it is entered when the first `subscribe` context is.

        `deadline`: the time by which the answer must be complete. `on_start` is called with the answer once its first
        content has arrived. `on_end` is called once, when the answer is complete, has failed or is stopped since nobody
        reads it.
        """
        self._opening = opening
        self._deadline = deadline
        self._on_start = on_start
        self._on_end = on_end
        self._changed = asyncio.Event()
        self._subscribers = 0
        self._work = Background(self._run, name="answer-generation")
        self._over = False
        self.time_budget = deadline.remaining()
        """Seconds from creation until the generation's deadline."""
        self.answer: AnswerStream | None = None
        """The answer; None until its first content has arrived."""
        self.chunks: list[Chunk] = []
        self.complete = False
        self.failure: MongarsError | None = None

    @property
    def timed_out(self) -> bool:
        """Whether the generation failed because its deadline passed; a later deadline then makes a retry useful."""
        error = self.failure
        causes = (
            [cause for _, cause in error.causes] if isinstance(error, AllProvidersFailed) else []
        )
        slow = any(isinstance(cause, DeadlineExceeded) for cause in (error, *causes))
        return error is not None and (slow or self._deadline.expired())

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[SharedGeneration]:
        """Context manager that keeps the generation running: the first one entered starts it, the last exit stops it.

        Yields this generation.
        """
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
        """Wait for the first content of the generation, and return its answer.

        Raises the `MongarsError` with which the generation failed, or `DeadlineExceeded` if `deadline` passes first.
        """
        while self.answer is None:
            if self.failure is not None:
                raise self.failure
            await self.wait_for_progress(deadline)
        return self.answer

    async def wait_for_progress(self, deadline: Deadline) -> None:
        """Wait until a chunk is added to `chunks`, the answer has started, or the generation ends.

        Raises `DeadlineExceeded` if `deadline` passes first; a `deadline` that is not before the generation's own has
        no effect, as that one ends the wait. If the generation failed with a `MongarsError`, this returns normally,
        and the error is in `failure`; any other exception that ended it is raised.
        """
        if self._over:
            await self._work.finished()
        seconds = None if deadline.at >= self._deadline.at else deadline.remaining()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError as exc:
            detail = "No time left to wait for the answer to an identical request."
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
                self._end()  # subscribers need not wait until the connection is closed
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
        """Wake all tasks that wait in `wait_for_progress`; later calls wait for the next chunk or the end."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _close(self) -> None:
        if self.complete:
            await self._work.finished()
            return
        self._end()
        await self._work.aclose()


class GenerationReader:
    """The `ChunkStream` of one request: reads a shared generation from its first chunk.

    Iteration raises `GenerationInterrupted` if the generation fails or the `deadline` of this request passes.
    """

    def __init__(self, generation: SharedGeneration, deadline: Deadline) -> None:
        self._generation = generation
        self._deadline = deadline
        self._next = 0
        self.state: StreamState = "open"
        self.usage: Usage | None = None

    @property
    def answer(self) -> AnswerStream | None:
        """The answer of the shared generation; None before its first content has arrived."""
        return self._generation.answer

    def ready(self) -> list[Chunk]:
        """Remove and return the chunks that have arrived and that this reader has not returned yet, without waiting."""
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
