"""The queue before an endpoint pool: accounts share its places, and no request waits in vain.

A request that cannot be served in time is refused on arrival, with the time after which a retry makes
sense: a request that waits and then fails has cost its client both.
"""

from __future__ import annotations

import math
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from mongars.core.errors import Overloaded
from mongars.core.fair_queue import EVERYBODY, FairQueue, QueueFull

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from mongars.core.clock import Clock
    from mongars.core.fair_queue import Share

MAX_WAITING = 256
SMOOTHING = 0.2
"""Weight of the newest request in the average time between two that end."""


class RequestQueue:
    """Lets as many requests through as `capacity` says at that moment; None: any number.

    While one account holds all places, the first request of another one goes through as well, beyond
    the capacity: where slots are short, the replica shares them.
    """

    def __init__(self, capacity: Callable[[], int | None], *, clock: Clock) -> None:
        self._clock = clock
        self._queue = FairQueue(
            lambda: math.inf if (places := capacity()) is None else places,
            most_waiting=MAX_WAITING,
            soft=True,
        )
        self._since = 0.0
        """When a request left last, or began to wait before an empty queue."""
        self._between = 0.0

    @property
    def active(self) -> int:
        """Requests that are through and have not ended."""
        return self._queue.active

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._queue.waiting

    @asynccontextmanager
    async def slot(self, patience: float, share: Share = EVERYBODY) -> AsyncIterator[float]:
        """Pass the queue within `patience` seconds; yields how many it took.

        Raises `Overloaded`, at once if the queue is too long for that patience.
        """
        now = self._clock.monotonic
        arrived = now()
        expected = self._expected(share)
        if expected > patience:
            raise self._refusal(expected)
        try:
            await self._queue.acquire(share, now, seconds=patience)
        except (QueueFull, TimeoutError) as exc:
            raise self._refusal(expected) from exc
        try:
            yield now() - arrived
        finally:
            left = now()
            self._left(left)
            self._queue.release(share.scope, left)

    @contextmanager
    def extra_slot(self) -> Iterator[bool]:
        """A second place for a request that is through; yields whether there was one to extra_slot."""
        found = not self.waiting and self._queue.free >= 1
        self._queue.active += found
        try:
            yield found
        finally:
            if found:
                self._queue.active -= 1
                self.wake()

    def wake(self) -> None:
        """Let requests through for which there is room; to be called when the capacity has grown."""
        if self.waiting:
            self._queue.wake(self._clock.monotonic())

    def _expected(self, share: Share) -> float:
        if self.waiting:
            return self._between * self._queue.ahead(share)
        self._since = self._clock.monotonic()
        return 0.0  # what was measured in an earlier queue need not hold for the next one

    def _left(self, now: float) -> None:
        if self.waiting:
            self._between += SMOOTHING * (now - self._since - self._between)
            self._since = now

    def _refusal(self, expected: float) -> Overloaded:
        detail = (
            f"{self.active} requests to Ray are under way and {self.waiting} wait: as many as"
            " RAY_CLIENT_MAX_CONNECTIONS and the endpoints bear."
        )
        return Overloaded(detail, retry_after=max(1.0, expected))
