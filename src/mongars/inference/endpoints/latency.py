"""Peak-sensitive moving average of the time to the first token.

A sample above the average replaces it; below it, samples and time reduce it exponentially. So an
endpoint that becomes slow is avoided at once, and tried again after a while even if no request was
sent to it meanwhile (the cost function of Finagle's Peak EWMA load balancer).
"""

from __future__ import annotations

import math

DECAY_SECONDS = 10.0
"""After this long without a sample, 1/e of the average is left."""


class PeakEwma:
    """The average of one endpoint, in seconds."""

    def __init__(self) -> None:
        self._value = 0.0
        self._at = -math.inf
        self.known = False
        """Whether there is any sample."""

    def observe(self, seconds: float, now: float) -> None:
        """Add a sample: the time from sending a request to its first token or failure."""
        self.known = True
        faded = self._faded(now)
        self._value = max(seconds, faded) if seconds > faded else self._mix(seconds, now)
        self._at = now

    def at_least(self, seconds: float, now: float) -> None:
        """Add a lower bound: a request was cancelled after waiting that long for its first token."""
        if seconds > self._faded(now):
            self.observe(seconds, now)

    @property
    def last(self) -> float:
        """The average as of the last sample."""
        return self._value

    def at(self, now: float) -> float:
        """The average now, faded towards zero since the last sample; 0 before the first sample."""
        return self._faded(now)

    def _faded(self, now: float) -> float:
        return self._value * self._weight(now)

    def _mix(self, seconds: float, now: float) -> float:
        weight = self._weight(now)
        return self._value * weight + seconds * (1 - weight)

    def _weight(self, now: float) -> float:
        return math.exp(-max(0.0, now - self._at) / DECAY_SECONDS)
