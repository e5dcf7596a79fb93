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

    from mongars.core.deadline import Deadline

SMOOTHING = 0.2
"""Weight of the newest service time in the running average."""
SHORTEST_ADVICE = 1.0
"""Seconds; less is not worth coming back for."""


class Admission:
    """Hands out slots; knows how long they were held lately, and so how long the queue is."""

    def __init__(self, *, slots: int, max_waiting: int) -> None:
        self._free = asyncio.Semaphore(slots)
        self._slots = slots
        self._max_waiting = max_waiting
        self._service_time: float | None = None
        self.active = 0
        """Requests that hold a slot."""
        self.waiting = 0
        """Requests that wait for one."""

    @property
    def expected_wait(self) -> float:
        """Seconds until a request that came now would get its slot; 0 while nothing is known."""
        if self.active + self.waiting < self._slots:
            return 0.0
        return (self._service_time or 0.0) * (self.waiting + 1) / self._slots

    @asynccontextmanager
    async def slot(self, deadline: Deadline, *, admitted: bool = False) -> AsyncIterator[float]:
        """Hold a slot; yields the seconds it was waited for.

        `admitted`: it is a further answer to a request that was not refused, so it waits its turn
        however long the queue is.

        Raises:
            Overloaded: the queue is full, or too long for the deadline; says when to come back.
            DeadlineExceeded: the deadline passed while waiting.
        """
        if not admitted:
            self._refuse_hopeless(deadline)
        waited = await self._wait(deadline)
        clock = deadline.clock
        started = clock.monotonic()
        self.active += 1
        try:
            yield waited
        finally:
            self.active -= 1
            self._free.release()
        # Only from here, where nothing was raised: a client that left and a refusal say nothing
        # about how long an answer takes.
        took = clock.monotonic() - started
        known = took if self._service_time is None else self._service_time
        self._service_time = known + SMOOTHING * (took - known)

    def _refuse_hopeless(self, deadline: Deadline) -> None:
        expected = self.expected_wait
        advice = max(SHORTEST_ADVICE, expected)
        if self.active + self.waiting >= self._slots + self._max_waiting:
            detail = f"All {self._slots} slots are busy and {self.waiting} requests wait already."
            raise Overloaded(detail, retry_after=advice)
        if expected > deadline.remaining():
            detail = f"The wait for a slot is about {expected:.1f} s, longer than the deadline."
            raise Overloaded(detail, retry_after=advice)

    async def _wait(self, deadline: Deadline) -> float:
        arrived = deadline.clock.monotonic()
        self.waiting += 1
        try:
            async with asyncio.timeout(deadline.remaining()):
                await self._free.acquire()
        except TimeoutError as exc:
            detail = "The deadline passed while the request waited for a slot."
            raise DeadlineExceeded(detail) from exc
        finally:
            self.waiting -= 1
        return deadline.clock.monotonic() - arrived
