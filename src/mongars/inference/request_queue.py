"""A bounded queue in front of the Ray endpoints, shared fairly between accounts.

A request that is not expected to be sent in time is refused on arrival with `Overloaded`, which contains
the number of seconds after which the client should retry.
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
"""Weight of the newest sample in the moving average of the time between two requests that end."""


class RequestQueue:
    """Bounds the requests to Ray that are in flight; the others wait in a queue that accounts share fairly.

    The bound is `capacity()`, which is called for each decision; None means no bound. A request in flight holds one of
    these places. While one account holds all places, one request of another account is admitted beyond the bound, since
    the replica's engine shares its sequences between accounts.
    """

    def __init__(self, capacity: Callable[[], int | None], *, clock: Clock) -> None:
        self._clock = clock
        self._queue = FairQueue(
            lambda: math.inf if (slots := capacity()) is None else slots,
            most_waiting=MAX_WAITING,
            soft=True,
        )
        self._since = 0.0
        """Monotonic time at which a request last ended, or was queued while no other one waited."""
        self._between = 0.0

    @property
    def active(self) -> int:
        """Number of requests that hold a place, that is, are in flight."""
        return self._queue.active

    @property
    def waiting(self) -> int:
        """Number of requests that wait for a place."""
        return self._queue.waiting

    @asynccontextmanager
    async def slot(self, max_wait: float, share: Share = EVERYBODY) -> AsyncIterator[float]:
        """Context manager that holds a place for one request; yields the seconds waited for it.

        `share`: the request's account and its weight; by default one without an account, of weight 1. Entering raises
        `Overloaded` if no place was free for `max_wait` seconds, and at once if 256 requests (`MAX_WAITING`) wait
        already or the wait is expected to be longer.
        """
        now = self._clock.monotonic
        arrived = now()
        expected = self._expected(share)
        if expected > max_wait:
            raise self._refusal(expected)
        try:
            await self._queue.acquire(share, now, seconds=max_wait)
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
        """Context manager that holds a second place for a request that holds one already; yields True.

        Yields False, and holds none, if no place is free or other requests wait for one.
        """
        found = self._queue.hold_extra()
        try:
            yield found
        finally:
            if found:
                self._queue.release_extra(self._clock.monotonic())

    def wake(self) -> None:
        """Give free places to waiting requests; to be called when the result of `capacity()` may have grown."""
        if self.waiting:
            self._queue.wake(self._clock.monotonic())

    def _expected(self, share: Share) -> float:
        if self.waiting:
            return self._between * self._queue.ahead(share)
        self._since = self._clock.monotonic()
        return 0.0  # the average of an earlier queue need not hold for this one

    def _left(self, now: float) -> None:
        if self.waiting:
            self._between += SMOOTHING * (now - self._since - self._between)
            self._since = now

    def _refusal(self, expected: float) -> Overloaded:
        detail = (
            f"{self.active} requests to Ray are in flight and {self.waiting} wait: as many as"
            " RAY_CLIENT_MAX_CONNECTIONS and the endpoints' limits allow."
        )
        return Overloaded(detail, retry_after=max(1.0, expected))
