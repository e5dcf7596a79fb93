"""The retry budget: an upper bound on the additional load caused by retries, hedges and continuations.

When every request fails, retrying all of them multiplies the load on the failing endpoints. The
budget allows additional attempts up to a share of the requests of the last seconds, plus a small constant
number, so that a client with few requests can retry too (Finagle's retry budget: 20 %, a minimum per second, 10 s).
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
    """Limits additional attempts (retries, hedges, continuations) relative to the number of requests.

    Within `MEMORY_SECONDS` (10 s), at most `share` (such as 0.2) times the number of first attempts, plus
    `floor_per_second` for each second.
    """

    def __init__(
        self, clock: Clock, *, share: float = SHARE, floor_per_second: float = FLOOR_PER_SECOND
    ) -> None:
        self._clock = clock
        self._share = share
        self._floor = floor_per_second * MEMORY_SECONDS
        self._requests: deque[float] = deque()
        self._extra: deque[float] = deque()

    def request(self) -> None:
        """Record the first attempt of a request, which raises the number of additional attempts allowed."""
        self._requests.append(self._now())

    def spend(self) -> bool:
        """If one more additional attempt is allowed now, record it and return True; else return False."""
        if self.left < 1:
            return False
        self._extra.append(self._now())
        return True

    @property
    def left(self) -> float:
        """How many additional attempts are allowed now; below 1, none may be sent.

        It is not a whole number in general, because each first attempt adds only the fraction `share` to it.
        """
        self._now()
        return self._floor + self._share * len(self._requests) - len(self._extra)

    def _now(self) -> float:
        now = self._clock.monotonic()
        for times in (self._requests, self._extra):
            while times and times[0] < now - MEMORY_SECONDS:
                times.popleft()
        return now
