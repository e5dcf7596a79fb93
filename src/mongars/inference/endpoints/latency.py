"""Peak-sensitive moving average of the time to the first token.

A sample above the average replaces it; samples below it and elapsed time reduce it exponentially. An
endpoint that becomes slow is thus avoided at once, and tried again after a while even if no request was
sent to it meanwhile (the cost function of Finagle's Peak EWMA load balancer).
"""

from __future__ import annotations

import math

DECAY_SECONDS = 10.0
"""Seconds without a sample after which the average has fallen to 1/e of its value."""


class PeakEwma:
    """Moving average of one endpoint's time to the first token, in seconds; a higher sample replaces it at once.

    Lower samples and elapsed time reduce it exponentially. The parameter `now` is in seconds on the monotonic clock.
    """

    def __init__(self) -> None:
        self._value = 0.0
        self._at = -math.inf
        self.known = False
        """Whether any sample has been added."""

    def observe(self, seconds: float, now: float) -> None:
        """Add a sample at `now` (monotonic seconds): `seconds` from sending a request to its first token or failure."""
        self.known = True
        self._value = seconds if seconds > self._faded(now) else self._mix(seconds, now)
        self._at = now

    def at_least(self, seconds: float, now: float) -> None:
        """Add a sample of which only the lower bound `seconds` is known; ignored unless above the current average.

        Used for a request that was cancelled at `now` (monotonic seconds) after waiting `seconds` for its first token.
        """
        if seconds > self._faded(now):
            self.observe(seconds, now)

    @property
    def last(self) -> float:
        """The average in seconds as it was at the last sample, without the reduction since then; 0 without samples."""
        return self._value

    def at(self, now: float) -> float:
        """The average in seconds at `now` (monotonic seconds), reduced since the last sample; 0 without samples."""
        return self._faded(now)

    def _faded(self, now: float) -> float:
        return self._value * self._weight(now)

    def _mix(self, seconds: float, now: float) -> float:
        weight = self._weight(now)
        return self._value * weight + seconds * (1 - weight)

    def _weight(self, now: float) -> float:
        return math.exp(-max(0.0, now - self._at) / DECAY_SECONDS)
