"""Larger pieces when several answers share a replica.

Each message through Ray costs the cores of the machine about a millisecond, which is the time of
several tokens once many answers are written side by side (ADR 0012). One answer alone is passed on
as it is made; of several, each is passed on a few times a second, and all at the same moments.
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
"""What each answer beyond the first adds to the time between two pieces of one."""

MOST_HELD = 64 * 1024
"""Bytes of one answer that may wait for a slow caller; then its engine waits, too."""


class Pacing:
    """Knows how many answers are being written, and says when their pieces go out."""

    def __init__(self, clock: Clock, *, longest: float) -> None:
        """`longest` bounds the seconds a token waits here; 0 passes every token on at once."""
        self._clock = clock
        self._longest = longest
        self._open: dict[Gathered, int] = {}
        self._ticker = Background(self._tick, name="pacing")

    @property
    def interval(self) -> float:
        """Seconds between two pieces of one answer, now."""
        return min(self._longest, SECONDS_PER_ANSWER * max(0, sum(self._open.values()) - 1))

    @asynccontextmanager
    async def gather(
        self, blocks: AsyncIterator[bytes], *, answers: int = 1
    ) -> AsyncIterator[Gathered]:
        """The same bytes, in larger pieces while more than one answer is being written.

        `answers` is how many of them are in `blocks`. The first piece and the end never wait.
        Iterating raises what `blocks` raises, after everything that came before it.
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
    """One answer: what has been read of it and not been passed on yet."""

    def __init__(self, pacing: Pacing, blocks: AsyncIterator[bytes]) -> None:
        self._pacing = pacing
        self._blocks = blocks
        self._parts: list[bytes] = []
        self._size = 0
        self._begun = False
        self._ended = False
        self._failure: BaseException | None = None
        self._due = asyncio.Event()
        self._taken = asyncio.Event()
        self.pieces = self._pieces()
        """What was read, whenever it is due."""

    async def read(self) -> None:
        """Read to the end; a failure is kept for whoever takes the pieces."""
        try:
            async for block in self._blocks:
                self._hold(block)
                if self._size > MOST_HELD:
                    await self._taken.wait()
        except Exception as failure:  # noqa: BLE001 (raised by `pieces`, after what came before)
            self._failure = failure
        except BaseException as stop:
            self._failure = stop  # or the pieces would end as if the answer were complete
            raise
        finally:
            self._ended = True
            self._due.set()

    def release(self) -> None:
        """Pass on what there is."""
        if self._parts:
            self._due.set()

    def rest(self) -> bytes:
        """What was read and not passed on; for whoever was interrupted while iterating."""
        held = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        self._taken.set()
        return held

    def _hold(self, block: bytes) -> None:
        self._parts.append(block)
        self._size += len(block)
        self._taken.clear()
        if not (self._begun and self._pacing.interval) or self._size > MOST_HELD:
            self._begun = True
            self._due.set()

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        while not self._ended:
            await self._due.wait()
            self._due.clear()
            if piece := self.rest():
                yield piece
        if piece := self.rest():  # came while the last one was being written
            yield piece
        if self._failure is not None:
            raise self._failure
