"""Send several tokens in one message while a replica streams several answers.

Each message through Ray costs about a millisecond of CPU time, which is the time of several tokens when many
answers are streamed at once (ADR 0012). A single answer is sent token by token; of several, the tokens of each are
collected and sent a few times a second, for all answers at the same time.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

from mongars.core.background import Background

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from mongars.core.clock import Clock

SECONDS_PER_ANSWER = 0.03
"""Seconds that each running answer beyond the first adds to the interval between two messages."""

MOST_HELD = 64 * 1024
"""Bytes of one answer that are buffered for a slow client; beyond that, no more is read from the engine."""


class Pacing:
    """Decides when bytes of streamed answers are sent: the more answers a replica streams at once, the less often.

    Bytes that arrive in between are buffered, and sent for all answers at the same time.
    """

    def __init__(self, clock: Clock, *, longest: float) -> None:
        """`longest`: the most seconds that a token is buffered; 0: every token is sent at once."""
        self._clock = clock
        self._longest = longest
        self._open: dict[Gathered, int] = {}
        self._ticker = Background(self._tick, name="pacing")

    @property
    def interval(self) -> float:
        """The current number of seconds between two pieces sent of one answer; 0: every block is sent at once."""
        return min(self._longest, SECONDS_PER_ANSWER * max(0, sum(self._open.values()) - 1))

    @asynccontextmanager
    async def gather(
        self, blocks: AsyncIterator[bytes], *, answers: int = 1
    ) -> AsyncIterator[Gathered]:
        """Join the bytes of `blocks` to larger pieces while more than one answer is streamed; a context.

        `blocks` is the engine's stream, `answers` the number of answers in it. Iterate `pieces` of the result. The
        first piece and the end are never delayed. An error that `blocks` raises is raised by `pieces`, after all bytes
        before it.
        """
        gathered = Gathered(self, blocks)
        reading = Background(gathered.read, name="gather")
        self._open[gathered] = answers
        if self.interval:
            self._ticker.start()
        reading.start()
        try:
            async with aclosing(gathered.pieces):
                yield gathered
        finally:
            del self._open[gathered]
            await reading.aclose()

    async def _tick(self) -> None:
        while interval := self.interval:
            await self._clock.sleep(interval)
            for gathered in self._open:
                gathered.release()


class Gathered:
    """The buffer of one stream of answers: bytes that were read from the engine and not sent yet.

    Made by `Pacing.gather`. Its attribute `pieces` is the async iterator over the bytes to send, joined to larger
    pieces, each yielded when it is due.
    """

    def __init__(self, pacing: Pacing, blocks: AsyncIterator[bytes]) -> None:
        self._pacing = pacing
        self._blocks = blocks
        self._parts: list[bytes] = []
        self._size = 0
        self._started = False
        self._ended = False
        self._failure: BaseException | None = None
        self._due = asyncio.Event()
        self._taken = asyncio.Event()
        self.pieces = self._pieces()
        """The bytes to send, joined to pieces; each is yielded when it is due."""

    async def read(self) -> None:
        """Read all bytes of the engine's stream into this buffer; pauses while it has more than 64 KiB.

        An error of the stream is not raised here but by `pieces`, after all bytes that came before it.
        """
        try:
            async for block in self._blocks:
                self._hold(block)
                if self._size > MOST_HELD:
                    await self._taken.wait()
        except Exception as failure:  # noqa: BLE001 (raised by `pieces`, after what came before)
            self._failure = failure
        except BaseException as stop:
            self._failure = stop  # otherwise the pieces would end as if the answer were complete
            raise
        finally:
            self._ended = True
            self._due.set()

    def release(self) -> None:
        """Make `pieces` yield the bytes that are in this buffer; does nothing if it is empty."""
        if self._parts:
            self._due.set()

    def rest(self) -> bytes:
        """Remove and return the bytes in this buffer, for example after an error that `pieces` raised."""
        held = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        self._taken.set()
        return held

    def _hold(self, block: bytes) -> None:
        self._parts.append(block)
        self._size += len(block)
        self._taken.clear()
        if not (self._started and self._pacing.interval) or self._size > MOST_HELD:
            self._started = True
            self._due.set()

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        while not self._ended:
            await self._due.wait()
            self._due.clear()
            if piece := self.rest():
                yield piece
        if piece := self.rest():  # arrived while the previous piece was being written
            yield piece
        if self._failure is not None:
            raise self._failure
