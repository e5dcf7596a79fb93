"""A few slots and a short queue before them: work that cannot finish in time is refused early."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mongars.core.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.core.deadline import Deadline

SMOOTHING = 0.2
SHORTEST_ADVICE = 1.0


class Slots:
    """Bounded concurrency, first come first served."""

    def __init__(self, count: int, *, waiting: int) -> None:
        self._count = max(1, count)
        self._free = asyncio.Semaphore(self._count)
        self._most_waiting = waiting
        self._held_for: float | None = None
        self.busy = 0
        self.waiting = 0

    @asynccontextmanager
    async def hold(self, deadline: Deadline) -> AsyncIterator[None]:
        """Hold a slot. Raises `Overloaded`, with the expected wait, if none comes in time."""
        expected = self._expected_wait()
        if self.waiting >= self._most_waiting or expected > deadline.remaining():
            raise _refusal(expected)
        self.waiting += 1
        try:
            async with asyncio.timeout(deadline.remaining()):
                await self._free.acquire()
        except TimeoutError as exc:
            raise _refusal(expected) from exc
        finally:
            self.waiting -= 1
        start = deadline.clock.monotonic()
        self.busy += 1
        try:
            yield
        finally:
            self.busy -= 1
            self._free.release()
            spent = deadline.clock.monotonic() - start
            known = spent if self._held_for is None else self._held_for
            self._held_for = known + SMOOTHING * (spent - known)

    def _expected_wait(self) -> float:
        """Going by how long slots were held lately; nothing while one is free."""
        if not self._free.locked():
            return 0.0
        return (self.waiting + 1) / self._count * (self._held_for or 0.0)


def _refusal(expected: float) -> Overloaded:
    advice = max(SHORTEST_ADVICE, expected)
    return Overloaded("The local model is busy, and so is the queue for it.", retry_after=advice)
