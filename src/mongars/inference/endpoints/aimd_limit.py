"""How many requests an endpoint gets at once: additive increase, multiplicative decrease.

The rule of TCP (Jacobson and Karels, 1988) on concurrency. It begins with what the operator allows
(`RAY_CLIENT_MAX_CONNECTIONS`, an endpoint's part of it). A refusal or a silence leaves 0.7 of it; as
many answers as the limit is that begin make room for one more. It does not grow while half of it is unused, because then the
answers say nothing about it. Counted is the beginning of an answer, not its end: a stream that lasts
minutes has shown with its first token that there was room for it.
"""

from __future__ import annotations

MIN_INITIAL_LIMIT = 8
DECREASE = 0.7
MAX_LIMIT = 4096


class ConcurrencyLimit:
    """The limit of one endpoint."""

    def __init__(self, first: int = MIN_INITIAL_LIMIT) -> None:
        self._limit = float(max(MIN_INITIAL_LIMIT, first))

    @property
    def value(self) -> int:
        """Requests that may be under way; at least 1."""
        return int(self._limit)

    def succeeded(self, in_flight: int) -> None:
        """An answer began while so many were under way, itself included."""
        if in_flight >= self._limit / 2:
            self._limit = min(MAX_LIMIT, self._limit + 1 / self._limit)

    def refused(self) -> None:
        """It was too busy, or did not begin in time."""
        self._limit = max(1.0, self._limit * DECREASE)
