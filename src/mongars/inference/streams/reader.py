"""Reads a streamed answer: decides when it has started, and whether it was completed or cut.

*Cut* means that the stream ended before the answer was complete. Bytes arrive in blocks of any size; a decoder
turns them into items; the reader applies these rules:

1. *Commit.* Chunks are held back until the first text that is not blank. Until then a failure is
   invisible to the client, and another endpoint or provider can be tried. An answer without text
   counts too if tokens were generated for it, because a stop sequence may come first.
2. *After it* the stream ends in one of two ways: iteration ends, and the answer is complete, or
   `GenerationInterrupted` is raised, and it was cut. It is complete after `[DONE]`, or after a
   finish reason even if `[DONE]` is missing.
3. *The idle timeout* runs from chunk to chunk: comments and keep-alives do not reset it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol, Self

from mongars.core.errors import (
    EndpointUnreachable,
    GenerationInterrupted,
    InvalidAnswer,
    InvalidRequest,
    MongarsError,
)
from mongars.core.generation import Chunk, Origin
from mongars.inference.retry.failures import EmptyAnswer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from mongars.core.deadline import Deadline
    from mongars.core.generation import Usage
    from mongars.inference.provider import StreamState

TRAILER_SECONDS = 2.0
"""Seconds to wait for token counts and `[DONE]` after the finish reason; then the answer is complete."""

MAX_BLANK_CHARACTERS = 8192
"""Number of blank characters allowed before the first text; an answer with more is invalid."""

MAX_BLANK_CHUNKS = 64
"""Number of blank chunks held back before the first text; further chunks without any characters are dropped."""


class End:
    """Item that a decoder yields when the server has marked the answer as complete."""


class Decoder(Protocol):
    """Decodes the bytes of a streamed answer into chunks, its `Origin` and its `End`, for an `AnswerReader`."""

    def feed(self, block: bytes) -> Iterator[Chunk | Origin | End]:
        """The items that this block of bytes completes; the rest is kept for the next block.

        Raises the error that the stream reports, or `InvalidAnswer` for malformed data.
        """
        ...


class AnswerReader:
    """Reads one streamed answer from blocks of bytes. Call `commit` first; then it is a `ChunkStream`.

    `blocks`: the bytes of the response body, cut anywhere. `origin`: used until the stream names another one. `idle`:
    seconds without a chunk after which the answer is cut. `deadline`: the time by which it must be complete. `choices`:
    how many answers the stream contains. After the last finish reason, it waits at most 2 s for token counts and the
    end; the answer is then complete.
    """

    def __init__(
        self,
        blocks: AsyncIterator[bytes],
        decoder: Decoder,
        *,
        origin: Origin,
        idle: float,
        deadline: Deadline,
        choices: int = 1,
    ) -> None:
        self._blocks = blocks
        self._decoder = decoder
        self._idle = idle
        self._deadline = deadline
        self._clock = deadline.clock
        self._ready: deque[Chunk] = deque()
        self._failure: MongarsError | None = None
        self._committed = False
        self._blank = 0
        self._choices = choices
        self._unfinished = set(range(choices))
        self._last_chunk_at = 0.0
        self.origin = origin
        self.state: StreamState = "open"
        self.stalled = False
        """Whether the answer was cut by the idle timeout."""
        self.usage: Usage | None = None

    async def commit(self) -> None:
        """Wait for the first content, without a timeout; until it has arrived, a failure is not visible to the client.

        Raises the error that the stream reports, `EmptyAnswer` if it ends without text, `InvalidAnswer` if it is
        malformed, or `EndpointUnreachable` if the connection is closed.
        """
        while not self._committed:
            block = await anext(self._blocks, None)
            if block is None:
                if self._finished:
                    raise _empty()
                detail = "The connection was closed before the first token."
                raise EndpointUnreachable(detail)
            self._take(block)
        self._last_chunk_at = self._clock.monotonic()

    @property
    def _finished(self) -> bool:
        """Whether the finish reason of every choice (answer) in this stream has arrived."""
        return not self._unfinished

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        while not self._ready:
            if self._failure is not None:
                raise self._failure
            if self.state != "open":
                raise StopAsyncIteration
            await self._read_on()
        return self._ready.popleft()

    def ready(self) -> list[Chunk]:
        """Remove and return the chunks that have arrived and were not read yet, without waiting; possibly empty."""
        found = list(self._ready)
        self._ready.clear()
        return found

    async def _read_on(self) -> None:
        try:
            async with asyncio.timeout(self._read_timeout()):
                block = await anext(self._blocks, None)
        except TimeoutError:
            self.stalled = not self._finished and not self._deadline.expired()
            self._end_of_bytes(self._timeout_reason())
        except InvalidRequest as error:
            self._cut(str(error), error)
        except MongarsError as error:
            self._end_of_bytes(str(error))
        else:
            if block is None:
                self._end_of_bytes("The connection was closed without a finish reason.")
            else:
                self._take_rest(block)

    def _take_rest(self, block: bytes) -> None:
        try:
            self._take(block)
        except InvalidAnswer as error:
            self._end_of_bytes(str(error))
        except MongarsError as error:
            self._cut(str(error), error)  # an error counts, even after a finish reason

    def _take(self, block: bytes) -> None:
        any_chunk = False
        for item in self._decoder.feed(block):
            if self.state != "open":
                return
            if isinstance(item, Chunk):
                self._take_chunk(item)
                any_chunk = True
            elif isinstance(item, Origin):
                self.origin = self.origin if self._committed else item
            else:
                self._end()
        if any_chunk:  # once per block
            self._last_chunk_at = self._clock.monotonic()

    def _take_chunk(self, chunk: Chunk) -> None:
        plain = chunk.finish_reason is None and chunk.usage is None  # as nearly all are
        if plain and self._committed and chunk.index in self._unfinished:
            self._ready.append(chunk)
            return
        self._check(chunk)
        self.usage = chunk.usage or self.usage
        if self._committed:
            self._ready.append(chunk)
        elif chunk.reasoning or chunk.text.strip():
            self._committed = True
            self._ready.append(chunk)
        elif len(self._ready) < MAX_BLANK_CHUNKS or chunk.text or chunk.finish_reason is not None:
            self._blank += len(chunk.text)
            self._ready.append(chunk)
        if chunk.finish_reason is not None:
            self._unfinished.discard(chunk.index)
        if self._finished and self.usage is not None and self.usage.completion_tokens > 0:
            self._committed = True

    def _check(self, chunk: Chunk) -> None:
        """Raise `InvalidAnswer` if `chunk` cannot belong to the answer.

        That is: if the answer has begun with `MAX_BLANK_CHARACTERS` (8192) of blank text or more, if the chunk has the
        index of a choice that was not requested, or content or another finish reason after that choice's finish
        reason.
        """
        if chunk.index in self._unfinished:
            if not self._committed and self._blank >= MAX_BLANK_CHARACTERS:
                detail = "The answer starts with too much blank text."
                raise InvalidAnswer(detail)
            return
        if not 0 <= chunk.index < self._choices:
            detail = f"The answer has a choice {chunk.index}; the request was for {self._choices}."
            raise InvalidAnswer(detail)
        if chunk.text or chunk.reasoning or chunk.finish_reason is not None:
            detail = "The answer continues after its finish reason."
            raise InvalidAnswer(detail)

    def _end(self) -> None:
        if not self._committed:
            raise _empty()
        if not self._finished and self._choices > 1:
            self._cut("a requested choice is missing.")
            return
        if not self._finished:
            self._ready.append(Chunk(finish_reason="stop"))
        self.state = "complete"

    def _end_of_bytes(self, reason: str) -> None:
        """End the answer, since nothing more can be read: as complete if every choice has a finish reason, else as cut.

        `reason`: text for the error message in the second case.
        """
        if self._finished:
            self.state = "complete"
        else:
            self._cut(reason)

    def _cut(self, reason: str, error: MongarsError | None = None) -> None:
        """End the answer as cut: iteration raises `GenerationInterrupted`, with `reason` in its message.

        If `error` is an `InvalidRequest`, that is raised instead, since another attempt would fail in the same way.
        """
        self.state = "cut"
        interrupted = GenerationInterrupted(f"The answer was cut: {reason}")
        self._failure = error if isinstance(error, InvalidRequest) else interrupted

    def _read_timeout(self) -> float:
        if self._finished:
            return TRAILER_SECONDS
        spent = self._clock.monotonic() - self._last_chunk_at
        return max(0.0, min(self._idle - spent, self._deadline.remaining()))

    def _timeout_reason(self) -> str:
        if self._deadline.expired():
            return "the request's total time has passed."
        return f"no token arrived for {self._idle:.3g} s (idle timeout)."


class WholeAnswer:
    """A non-streaming answer, already received as a whole, in the form of a `ChunkStream`."""

    def __init__(self, chunks: tuple[Chunk, ...]) -> None:
        self._ready = deque(chunks)
        self.state: StreamState = "open"
        self.stalled = False
        self.usage: Usage | None = next((c.usage for c in chunks if c.usage is not None), None)

    def ready(self) -> list[Chunk]:
        """Remove and return the chunks that were not read yet; never waits, since all have been received."""
        found = list(self._ready)
        self._ready.clear()
        return found

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        if self._ready:
            return self._ready.popleft()
        self.state = "complete"
        raise StopAsyncIteration


def _empty() -> EmptyAnswer:
    return EmptyAnswer("The answer ended without any text.")
