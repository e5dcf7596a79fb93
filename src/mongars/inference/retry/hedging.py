"""When to hedge: to send a second attempt while the first one is still waiting for its first token.

A request whose first token has not arrived after the 95th percentile of recent first-token times is
sent to a second endpoint too; the first answer to start is used ("The tail at scale", Dean and
Barroso, 2013). Hedges are limited to 5 % of the requests, and each also counts in the retry budget.

A first attempt that lost against its hedge is a sample with the time it had waited. Its first token
would have taken at least as long; without these samples the percentile would sink with every hedge.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from mongars.inference.retry.budget import RetryBudget

if TYPE_CHECKING:
    from mongars.core.clock import Clock

SHARE = 0.05
FLOOR_PER_SECOND = 0.1
"""One hedge in 10 s, so that a client with few requests may hedge at all."""
PERCENTILE = 0.95
MIN_SAMPLES = 20
MAX_SAMPLES = 200


class FirstTokenTimes:
    """The most recent first-token times of a pool of endpoints, in seconds."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=MAX_SAMPLES)

    def add(self, seconds: float) -> None:
        """Add a sample."""
        self._seconds.append(seconds)

    @property
    def percentile(self) -> float | None:
        """The 95th percentile; None with fewer than `MIN_SAMPLES` samples."""
        count = len(self._seconds)
        if count < MIN_SAMPLES:
            return None
        return sorted(self._seconds)[math.ceil(PERCENTILE * count) - 1]


class Hedging:
    """Decides whether and when the requests of one pool are hedged."""

    def __init__(self, clock: Clock, shared: RetryBudget) -> None:
        """`shared`: the retry budget, in which every hedge counts too."""
        self._own = RetryBudget(clock, share=SHARE, floor_per_second=FLOOR_PER_SECOND)
        self._shared = shared
        self._times = FirstTokenTimes()

    def request(self) -> None:
        """Record the first attempt of a request."""
        self._own.request()

    def record_wait(self, seconds: float) -> None:
        """A first token arrived after `seconds`, or the attempt was cancelled after waiting that long."""
        self._times.add(seconds)

    @property
    def delay(self) -> float | None:
        """Seconds after which to hedge a request; None while too few first-token times are known."""
        return self._times.percentile

    def spend(self) -> bool:
        """Whether a hedge may be sent now; if so, it is counted in both budgets."""
        return self._own.left >= 1 and self._shared.spend() and self._own.spend()
