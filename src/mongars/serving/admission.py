"""Who may use an engine slot, and who is told to come back later.

First come, first served, behind a bounded queue. A request that cannot start before its deadline
is refused on arrival: waiting would cost it time and help nobody.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mongars.core.errors import DeadlineExceeded, Overloaded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.core.clock import Clock
    from mongars.core.deadline import Deadline

SMOOTHING = 0.2
"""Weight of the newest service time in the running average."""
FIRST_GUESS = 2.0
"""Seconds one answer is assumed to take before any was measured."""


class Admission:
    """Hands out slots; knows how long an answer takes and so how long the queue is in seconds."""

    def __init__(self, *, slots: int, max_waiting: int, clock: Clock) -> None:
        self._free = asyncio.Semaphore(slots)
        self._slots = slots
        self._max_waiting = max_waiting
        self._clock = clock
        self._service_time = FIRST_GUESS
        self.active = 0
        """Requests that hold a slot."""
        self.waiting = 0
        """Requests that wait for one."""

    @property
    def expected_wait(self) -> float:
        """Seconds until a request that came now would get its slot."""
        if self.active < self._slots and self.waiting == 0:
            return 0.0
        return self._service_time * (self.waiting + 1) / self._slots

    @asynccontextmanager
    async def slot(self, deadline: Deadline) -> AsyncIterator[float]:
        """Hold a slot; yields the seconds it was waited for.

        Raises:
            Overloaded: the queue is full, or too long for the deadline.
            DeadlineExceeded: the deadline passed while waiting.
        """
        expected = self.expected_wait
        if self.active >= self._slots and self.waiting >= self._max_waiting:
            detail = f"All {self._slots} slots are busy and {self.waiting} requests wait already."
            raise Overloaded(detail, retry_after=expected)
        if expected > deadline.remaining():
            detail = f"The wait for a slot is about {expected:.0f} s, longer than the deadline."
            raise Overloaded(detail, retry_after=expected)
        waited = await self._wait(deadline)
        started = self._clock.monotonic()
        self.active += 1
        try:
            yield waited
        finally:
            self.active -= 1
            self._free.release()
            took = self._clock.monotonic() - started
            self._service_time += SMOOTHING * (took - self._service_time)

    async def _wait(self, deadline: Deadline) -> float:
        arrived = self._clock.monotonic()
        self.waiting += 1
        try:
            async with asyncio.timeout(deadline.remaining()):
                await self._free.acquire()
        except TimeoutError as exc:
            detail = "The deadline passed while the request waited for a slot."
            raise DeadlineExceeded(detail) from exc
        finally:
            self.waiting -= 1
        return self._clock.monotonic() - arrived
