"""Peak-sensitive moving average of the time to the first token.

It jumps to a worse sample at once and forgets exponentially, with time and not with samples: an
endpoint that is slow is left at once and tried again after a while, even if nobody asked it
meanwhile (the cost function of Finagle's Peak EWMA balancer).
"""

from __future__ import annotations

import math

DECAY_SECONDS = 10.0
"""After so long without a sample, 1/e of the average is left."""


class PeakEwma:
    """Seconds to the first token, as an endpoint's callers see them."""

    def __init__(self) -> None:
        self._value = 0.0
        self._at = -math.inf
        self.known = False

    def observe(self, seconds: float, now: float) -> None:
        """A request had its first token, or its failure, after so many seconds."""
        self.known = True
        faded = self._faded(now)
        self._value = max(seconds, faded) if seconds > faded else self._mix(seconds, now)
        self._at = now

    def at_least(self, seconds: float, now: float) -> None:
        """A request had waited so long when it was given up: its first token took longer."""
        if seconds > self._faded(now):
            self.observe(seconds, now)

    @property
    def last(self) -> float:
        """The average when the last sample came."""
        return self._value

    def at(self, now: float) -> float:
        """The average now, faded towards zero since the last sample; 0 before the first."""
        return self._faded(now)

    def _faded(self, now: float) -> float:
        return self._value * self._weight(now)

    def _mix(self, seconds: float, now: float) -> float:
        weight = self._weight(now)
        return self._value * weight + seconds * (1 - weight)

    def _weight(self, now: float) -> float:
        return math.exp(-max(0.0, now - self._at) / DECAY_SECONDS)
