"""The retry budget: a bound on the additional load by retries, hedges and continuations.

When every request fails, retrying all of them multiplies the load on the failing endpoints. The
budget allows a share of the requests of the last seconds, plus a small floor, so that a client
with few requests may retry at all (the retry budget of Finagle: 20 %, a floor per second, 10 s).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mongars.core.clock import Clock

SHARE = 0.2
FLOOR_PER_SECOND = 3.0
MEMORY_SECONDS = 10.0


class RetryBudget:
    """Counts first attempts and additional ones over the last `MEMORY_SECONDS`."""

    def __init__(
        self, clock: Clock, *, share: float = SHARE, floor_per_second: float = FLOOR_PER_SECOND
    ) -> None:
        self._clock = clock
        self._share = share
        self._floor = floor_per_second * MEMORY_SECONDS
        self._requests: deque[float] = deque()
        self._extra: deque[float] = deque()

    def request(self) -> None:
        """Record the first attempt of a request."""
        self._requests.append(self._now())

    def spend(self) -> bool:
        """Whether one additional attempt may be sent; if so, it is counted."""
        if self.left < 1:
            return False
        self._extra.append(self._now())
        return True

    @property
    def left(self) -> float:
        """Additional attempts that may be sent now."""
        self._now()
        return self._floor + self._share * len(self._requests) - len(self._extra)

    def _now(self) -> float:
        now = self._clock.monotonic()
        for times in (self._requests, self._extra):
            while times and times[0] < now - MEMORY_SECONDS:
                times.popleft()
        return now
