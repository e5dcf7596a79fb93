"""Reading an answer: nothing counts before its first content, and no cut passes for an end.

Bytes come in blocks cut anywhere; a decoder turns them into items; the reader keeps the rules:

1. *Commit gate.* Until the first text that is not blank, everything is held back. Whatever goes
   wrong up to there is invisible, and another endpoint or provider may be asked. An answer that
   finished without a word counts if tokens were generated for it: a stop sequence may come first.
2. *Afterwards* the stream ends in exactly one of two ways: it just ends, and is complete, or
   `GenerationInterrupted` is raised, and it is not. It is complete when the peer said so: by
   `[DONE]`, or by a finish reason, after which a missing `[DONE]` is forgiven.
3. *Silence* is measured from chunk to chunk: comments and other signs of life do not count.
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
"""After the finish reason, this long for usage and `[DONE]`; then the answer is closed for them."""

MAX_BLANK_CHARACTERS = 8192
"""Characters of blank text kept before the first word; an answer with more is none."""

MAX_BLANK_CHUNKS = 64
"""Blank chunks kept for later; more are dropped, since they carry no text."""


class End:
    """The peer said that the answer is complete."""


class Decoder(Protocol):
    """Turns blocks of bytes into items, keeping the unfinished rest."""

    def feed(self, block: bytes) -> Iterator[Chunk | Origin | End]:
        """The items that this block completes. Raises the error the peer reports in between."""
        ...


class AnswerReader:
    """One answer; a `ChunkStream` once `commit` has returned."""

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
        """Whether it was cut because no token came for too long."""
        self.usage: Usage | None = None

    async def commit(self) -> None:
        """Return once the first content is here; the caller bounds the time.

        Raises what went wrong instead: the peer's own error, `EmptyAnswer`, `InvalidAnswer`, or
        `EndpointUnreachable` if it hung up.
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
        """Whether every choice has said why it ended."""
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
        """What has come and was not read yet."""
        found = list(self._ready)
        self._ready.clear()
        return found

    async def _read_on(self) -> None:
        try:
            async with asyncio.timeout(self._patience()):
                block = await anext(self._blocks, None)
        except TimeoutError:
            self.stalled = not self._finished and not self._deadline.expired()
            self._break_off(self._silence())
        except InvalidRequest as error:
            self._cut(str(error), error)
        except MongarsError as error:
            self._break_off(str(error))
        else:
            if block is None:
                self._break_off("The connection was closed without a finish reason.")
            else:
                self._take_rest(block)

    def _take_rest(self, block: bytes) -> None:
        try:
            self._take(block)
        except InvalidAnswer as error:
            self._break_off(str(error))
        except MongarsError as error:
            self._cut(str(error), error)  # an error the peer reports is one, finish reason or not

    def _take(self, block: bytes) -> None:
        heard = False
        for item in self._decoder.feed(block):
            if self.state != "open":
                return
            if isinstance(item, Chunk):
                self._take_chunk(item)
                heard = True
            elif isinstance(item, Origin):
                self.origin = self.origin if self._committed else item
            else:
                self._end()
        if heard:  # once for all that came together
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
        """Raises `InvalidAnswer` for what no answer to this request says."""
        if chunk.index in self._unfinished:
            if not self._committed and self._blank >= MAX_BLANK_CHARACTERS:
                detail = "The answer begins with nothing but blanks."
                raise InvalidAnswer(detail)
            return
        if not 0 <= chunk.index < self._choices:
            detail = f"The answer has a choice {chunk.index}; asked for were {self._choices}."
            raise InvalidAnswer(detail)
        if chunk.text or chunk.reasoning or chunk.finish_reason is not None:
            detail = "The answer goes on after its end."
            raise InvalidAnswer(detail)

    def _end(self) -> None:
        if not self._committed:
            raise _empty()
        if not self._finished and self._choices > 1:
            self._cut("the peer left out an answer that was asked for.")
            return
        if not self._finished:
            self._ready.append(Chunk(finish_reason="stop"))
        self.state = "complete"

    def _break_off(self, why: str) -> None:
        """The bytes ended; complete if the answer had already said that it is."""
        if self._finished:
            self.state = "complete"
        else:
            self._cut(why)

    def _cut(self, why: str, error: MongarsError | None = None) -> None:
        """An error caused by the request itself keeps its type: asking again would not help."""
        self.state = "cut"
        interrupted = GenerationInterrupted(f"The answer was cut: {why}")
        self._failure = error if isinstance(error, InvalidRequest) else interrupted

    def _patience(self) -> float:
        if self._finished:
            return TRAILER_SECONDS
        spent = self._clock.monotonic() - self._last_chunk_at
        return max(0.0, min(self._idle - spent, self._deadline.remaining()))

    def _silence(self) -> str:
        if self._deadline.expired():
            return "the request's total time was used up."
        return f"it was idle, no token came for {self._idle:.3g} s."


class WholeAnswer:
    """An answer that came in one piece, as a `ChunkStream`."""

    def __init__(self, chunks: tuple[Chunk, ...]) -> None:
        self._ready = deque(chunks)
        self.state: StreamState = "open"
        self.stalled = False
        self.usage: Usage | None = next((c.usage for c in chunks if c.usage is not None), None)

    def ready(self) -> list[Chunk]:
        """All that was not read yet."""
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
