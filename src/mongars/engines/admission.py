"""The queue of requests for the slots of one engine.

Accounts share the slots through a bounded fair queue (`FairQueue`). A request that would wait beyond its
deadline is refused on arrival, so that the client can retry elsewhere at once.
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
"""Weight of the newest service time in the exponential moving average, 0 to 1."""
SHORTEST_ADVICE = 1.0
"""The shortest `Retry-After` of a refusal, in seconds."""


class Admission:
    """The queue of requests in front of one engine: at most `slots` requests at a time get one of the engine's slots.

    A slot is the right to have one request processed by the engine. At most `max_waiting` requests wait for one;
    further ones are refused (`Overloaded`). Waits are estimated from how long recent requests held their slot.
    """

    def __init__(self, *, slots: int, max_waiting: int) -> None:
        self._slots = slots
        self._queue = FairQueue(lambda: slots, most_waiting=max_waiting)
        self._service_time: float | None = None

    @property
    def active(self) -> int:
        """The number of requests that hold one of the engine's slots now."""
        return self._queue.active

    @property
    def waiting(self) -> int:
        """The number of requests that wait for one of the engine's slots now."""
        return self._queue.waiting

    def expected_wait(self, share: Share = EVERYBODY) -> float:
        """Estimated seconds that a request of the account and weight `share`, arriving now, would wait for a slot.

        0 if a slot is free, and also while no request has completed yet, as there is no measurement to estimate from.
        The default `share` is that of requests without an account, with weight 1.
        """
        if self.active + self.waiting < self._slots:
            return 0.0
        return (self._service_time or 0.0) * self._queue.ahead(share) / self._slots

    @asynccontextmanager
    async def slot(
        self, deadline: Deadline, share: Share = EVERYBODY, *, admitted: bool = False
    ) -> AsyncIterator[float]:
        """Wait for one of the engine's slots and hold it until the context is left; yields the seconds waited.

        `share`: the account and weight of the request in the queue; by default no account, weight 1. `admitted`: True
        for a further choice (`n` above 1) of a request that holds or held a slot; such a choice is never refused with
        `Overloaded`.

        Raises:
            Overloaded: the queue is full, or the expected wait exceeds the time left until `deadline`; `retry_after` is
                the expected wait in seconds, at least 1.
            DeadlineExceeded: `deadline` passed while waiting.
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
        # Only when nothing was raised: an answer that was cancelled or refused does not show how
        # long answers take.
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
