"""A clock for tests whose time passes only when a test advances it."""

from __future__ import annotations

import asyncio
import heapq
from datetime import UTC, datetime, timedelta
from itertools import count

_EPOCH = datetime(2025, 1, 8, 12, 0, tzinfo=UTC)
_TURNS = 20
"""Number of iterations of the event loop in which woken tasks can run before time advances further."""


class ManualClock:
    """A clock for tests (implements `core.clock.Clock`) whose time passes only in `advance` and `skip`."""

    def __init__(self) -> None:
        self._passed = 0.0
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self.slept: list[float] = []
        """The seconds of every call of `sleep`, in order."""

    def now(self) -> datetime:
        """2025-01-08 12:00 UTC plus the time that has passed on this clock."""
        return _EPOCH + timedelta(seconds=self._passed)

    def monotonic(self) -> float:
        """The seconds that have passed on this clock since it was created."""
        return self._passed

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been advanced by `seconds`; 0 or less only yields to the event loop once."""
        self.slept.append(seconds)
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._passed + seconds, next(self._order), woken))
        await woken

    def skip(self, seconds: float) -> None:
        """Let `seconds` pass without waking tasks in `sleep`.

        In tests, it can replace the function by which synchronous code blocks its thread for a number of seconds.
        """
        self._passed += seconds

    @property
    def sleepers(self) -> int:
        """The number of tasks that wait in `sleep` of this clock."""
        return sum(not woken.done() for _, _, woken in self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass. Each task in `sleep` is woken at its due time, and runs before time advances further."""
        goal = self._passed + seconds
        await self._let_act()
        while self._sleepers and self._sleepers[0][0] <= goal:
            due, _, woken = heapq.heappop(self._sleepers)
            self._passed = max(self._passed, due)
            if not woken.done():
                woken.set_result(None)
                await self._let_act()
        self._passed = goal
        await self._let_act()

    async def _let_act(self) -> None:
        for _ in range(_TURNS):
            await asyncio.sleep(0)
