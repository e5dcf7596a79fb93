"""Limit on the requests in flight at one endpoint: additive increase, multiplicative decrease (AIMD).

The rule of TCP congestion control (Jacobson and Karels, 1988) applied to concurrency. The limit starts
at the endpoint's part of `RAY_CLIENT_MAX_CONNECTIONS`. A busy response or a first-token timeout multiplies it
by 0.7; each started answer adds 1/limit to it. It does not grow while less than half of it is in use,
because then started answers do not show that the endpoint can take more. Started answers are counted, not
completed ones: the first token already shows that the endpoint had capacity for the request.
"""

from __future__ import annotations

MIN_INITIAL_LIMIT = 8
DECREASE_FACTOR = 0.7
MAX_LIMIT = 4096


class ConcurrencyLimit:
    """The limit on how many requests may be in flight at one endpoint at the same time; it adapts to their outcomes."""

    def __init__(self, initial: int = MIN_INITIAL_LIMIT) -> None:
        """`initial`: the limit to start with; `MIN_INITIAL_LIMIT` (8) is used instead if that is more."""
        self._limit = float(max(MIN_INITIAL_LIMIT, initial))

    @property
    def value(self) -> int:
        """The current limit: number of requests that may be in flight, rounded down; at least 1."""
        return int(self._limit)

    def increase(self, in_flight: int) -> None:
        """Raise the limit by 1/limit after an answer has started, unless less than half of the limit is in use.

        `in_flight`: requests in flight at the endpoint, including the one whose answer has started.
        """
        if in_flight >= self._limit / 2:
            self._limit = min(MAX_LIMIT, self._limit + 1 / self._limit)

    def decrease(self) -> None:
        """Multiply the limit by 0.7; it never falls below 1.

        Called when the endpoint was busy or did not start an answer in time.
        """
        self._limit = max(1.0, self._limit * DECREASE_FACTOR)
