"""When a second attempt goes out beside a first one that is late.

A request whose first token has not come after the 95th percentile of recent first-token times is
asked of another endpoint as well, and whoever begins first answers ("The tail at scale", Dean and
Barroso, 2013). That is worth its load only while it is rare: 5 % of the requests, paid a second time
from the budget of all retries.

A first attempt that was overtaken counts in the sample with the time it had waited. It would have
taken at least as long; left out, the slowest would vanish and the percentile sink with every hedge.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from mongars.inference.retry.budget import RetryBudget

if TYPE_CHECKING:
    from mongars.core.clock import Clock
    from mongars.core.generation import GenerationRequest

SHARE = 0.05
FLOOR_PER_SECOND = 0.1
"""One in the budget's 10 s, so that a client with few requests may hedge at all."""
PERCENTILE = 0.95
MIN_SAMPLES = 20
MAX_SAMPLES = 200


class FirstTokenTimes:
    """The last first-token times of a set of endpoints."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=MAX_SAMPLES)

    def add(self, seconds: float) -> None:
        """A first token took so long."""
        self._seconds.append(seconds)

    @property
    def late(self) -> float | None:
        """The time within which 95 % of them came; None before there are `MIN_SAMPLES`."""
        count = len(self._seconds)
        if count < MIN_SAMPLES:
            return None
        return sorted(self._seconds)[math.ceil(PERCENTILE * count) - 1]


class Hedging:
    """Decides for the requests of one pool of endpoints."""

    def __init__(self, clock: Clock, shared: RetryBudget) -> None:
        """`shared` pays for every hedge, too."""
        self._own = RetryBudget(clock, share=SHARE, floor_per_second=FLOOR_PER_SECOND)
        self._shared = shared
        self._times = FirstTokenTimes()

    def request(self) -> None:
        """A request's first attempt goes out."""
        self._own.request()

    def waited(self, seconds: float) -> None:
        """A first token took so long, or had not come after so long when it was overtaken."""
        self._times.add(seconds)

    def delay(self, request: GenerationRequest) -> float | None:
        """Seconds after which its first attempt is late; None if it is not to be hedged.

        Several choices are several times the load. A continuation is a retry already.
        """
        if request.continue_from is not None or request.sampling.n > 1:
            return None
        return self._times.late

    def spend(self) -> bool:
        """Ask to send a second attempt; counted in both budgets if the answer is yes."""
        return self._own.left >= 1 and self._shared.spend() and self._own.spend()
