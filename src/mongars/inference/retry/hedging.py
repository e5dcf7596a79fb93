"""When to hedge: to send a duplicate of a request that still waits for its first token to a second endpoint.

It is sent after the 95th percentile of recent first-token times; the first answer to start is used ("The tail
at scale", Dean and Barroso, 2013). Hedges are limited to 5 % of the requests, and each also counts in the retry
budget.

If the hedge starts first, the time that the cancelled first attempt had waited is added as a sample. Its first
token would have taken at least as long; without these samples the percentile would fall with every hedge.
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
"""Hedges per second allowed in addition to the share, so that a client with few requests can hedge."""
PERCENTILE = 0.95
MIN_SAMPLES = 20
MAX_SAMPLES = 200


class FirstTokenTimes:
    """The last `MAX_SAMPLES` (200) times to the first token at a pool of endpoints, in seconds."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=MAX_SAMPLES)

    def add(self, seconds: float) -> None:
        """Add the time in seconds that one request waited for its first token."""
        self._seconds.append(seconds)

    @property
    def percentile(self) -> float | None:
        """The 95th percentile of the times in seconds; None with fewer than `MIN_SAMPLES` (20) samples."""
        count = len(self._seconds)
        if count < MIN_SAMPLES:
            return None
        return sorted(self._seconds)[math.ceil(PERCENTILE * count) - 1]


class Hedging:
    """Decides when a request to a pool of endpoints is hedged: sent to a second one too, as the first is slow."""

    def __init__(self, clock: Clock, shared: RetryBudget) -> None:
        """`shared`: the retry budget of the same endpoints, in which every hedge (duplicate request) is counted too."""
        self._own = RetryBudget(clock, share=SHARE, floor_per_second=FLOOR_PER_SECOND)
        self._shared = shared
        self._times = FirstTokenTimes()

    def request(self) -> None:
        """Record the first attempt of a request, which raises the number of hedges (duplicate requests) allowed."""
        self._own.request()

    def record_wait(self, seconds: float) -> None:
        """Add a sample for `delay`: seconds an attempt waited for its first token, or until it was cancelled."""
        self._times.add(seconds)

    @property
    def delay(self) -> float | None:
        """Seconds without a first token after which to hedge a request: the 95th percentile of the last 200 samples.

        None (never) while there are fewer than 20 samples.
        """
        return self._times.percentile

    def spend(self) -> bool:
        """Whether one more hedge may be sent now; if so, it is recorded as sent.

        Both the budget of hedges (5 % of the requests) and the retry budget must permit it.
        """
        return self._own.left >= 1 and self._shared.spend() and self._own.spend()
