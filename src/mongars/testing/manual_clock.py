"""A clock whose hands a test holds."""

from __future__ import annotations

import asyncio
import heapq
from datetime import UTC, datetime, timedelta
from itertools import count

_EPOCH = datetime(2025, 1, 8, 12, 0, tzinfo=UTC)
_TURNS = 20
"""Rounds of the event loop granted to the woken tasks before time moves on."""


class ManualClock:
    """Implements `core.clock.Clock`; time passes only in `advance`."""

    def __init__(self) -> None:
        self._passed = 0.0
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self.slept: list[float] = []
        """Every requested wait, in seconds, in order."""

    def now(self) -> datetime:
        """A fixed day, plus what has passed."""
        return _EPOCH + timedelta(seconds=self._passed)

    def monotonic(self) -> float:
        """What has passed, in seconds."""
        return self._passed

    async def sleep(self, seconds: float) -> None:
        """Wait until time was advanced that far; at once if there is nothing to wait for."""
        self.slept.append(seconds)
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._passed + seconds, next(self._order), woken))
        await woken

    def skip(self, seconds: float) -> None:
        """Let time pass for code without an event loop, in the place of `core.clock.pause`."""
        self._passed += seconds

    @property
    def sleepers(self) -> int:
        """How many are waiting."""
        return sum(not woken.done() for _, _, woken in self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Let time pass, waking each sleeper at its own moment and letting it act there."""
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
