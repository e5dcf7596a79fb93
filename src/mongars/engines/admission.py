"""Which request may use an engine slot, and which is refused until later.

Accounts share the slots behind a bounded queue (`FairQueue`). A request that cannot start before its
deadline is refused on arrival: waiting would only cost it time.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mongars.core.errors import DeadlineExceeded, Overloaded
from mongars.core.fair_queue import EVERYBODY, FairQueue, QueueFull

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.core.deadline import Deadline
    from mongars.core.fair_queue import Share

SMOOTHING = 0.2
"""Weight of the newest service time in the running average."""
SHORTEST_ADVICE = 1.0
"""Seconds; less is not worth coming back for."""


class Admission:
    """Hands out slots; knows how long they were held lately, and so how long the queue is."""

    def __init__(self, *, slots: int, max_waiting: int) -> None:
        self._slots = slots
        self._queue = FairQueue(lambda: slots, most_waiting=max_waiting)
        self._service_time: float | None = None

    @property
    def active(self) -> int:
        """Requests that hold a slot."""
        return self._queue.active

    @property
    def waiting(self) -> int:
        """Requests that wait for one."""
        return self._queue.waiting

    def expected_wait(self, share: Share = EVERYBODY) -> float:
        """Seconds until a request that came now would get its slot; 0 while nothing is known."""
        if self.active + self.waiting < self._slots:
            return 0.0
        return (self._service_time or 0.0) * self._queue.ahead(share) / self._slots

    @asynccontextmanager
    async def slot(
        self, deadline: Deadline, share: Share = EVERYBODY, *, admitted: bool = False
    ) -> AsyncIterator[float]:
        """Hold a slot; yields the seconds it was waited for.

        `admitted`: it is a further answer to a request that was not refused, so it waits its turn
        however long the queue is.

        Raises:
            Overloaded: the queue is full, or too long for the deadline; says when to come back.
            DeadlineExceeded: the deadline passed while waiting.
        """
        expected = self.expected_wait(share)
        if not admitted and expected > deadline.remaining():
            detail = f"The wait for a slot is about {expected:.1f} s, longer than the deadline."
            raise Overloaded(detail, retry_after=max(SHORTEST_ADVICE, expected))
        now = deadline.clock.monotonic
        arrived = now()
        await self._acquire(deadline, share, bounded=not admitted)
        started = now()
        try:
            yield started - arrived
        finally:
            took = now() - started
            self._queue.release(share.scope, now())
        # Only from here, where nothing was raised: a client that left and a refusal say nothing
        # about how long an answer takes.
        known = took if self._service_time is None else self._service_time
        self._service_time = known + SMOOTHING * (took - known)

    async def _acquire(self, deadline: Deadline, share: Share, *, bounded: bool) -> None:
        now, seconds = deadline.clock.monotonic, deadline.remaining()
        try:
            await self._queue.acquire(share, now, seconds=seconds, bounded=bounded)
        except QueueFull as exc:
            detail = f"All {self._slots} slots are busy and {self.waiting} requests wait already."
            advice = max(SHORTEST_ADVICE, self.expected_wait(share))
            raise Overloaded(detail, retry_after=advice) from exc
        except TimeoutError as exc:
            detail = "The deadline passed while the request waited for a slot."
            raise DeadlineExceeded(detail) from exc
