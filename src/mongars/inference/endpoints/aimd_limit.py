"""How many requests may be in flight at one endpoint: additive increase, multiplicative decrease.

The rule of TCP congestion control (Jacobson and Karels, 1988) applied to concurrency. The limit starts
at the endpoint's part of `RAY_CLIENT_MAX_CONNECTIONS`. A refusal or a first-token timeout multiplies it
by 0.7; each started answer adds 1/limit to it. It does not grow while less than half of it is in use,
because then started answers do not show that there is room for more. Started answers count, not
completed ones: a stream that lasts minutes shows with its first token that there was room for it.
"""

from __future__ import annotations

MIN_INITIAL_LIMIT = 8
DECREASE_FACTOR = 0.7
MAX_LIMIT = 4096


class ConcurrencyLimit:
    """The limit of one endpoint."""

    def __init__(self, initial: int = MIN_INITIAL_LIMIT) -> None:
        """`initial` is raised to `MIN_INITIAL_LIMIT`."""
        self._limit = float(max(MIN_INITIAL_LIMIT, initial))

    @property
    def value(self) -> int:
        """Requests that may be in flight; at least 1."""
        return int(self._limit)

    def increase(self, in_flight: int) -> None:
        """An answer started while that many requests were in flight, its own included."""
        if in_flight >= self._limit / 2:
            self._limit = min(MAX_LIMIT, self._limit + 1 / self._limit)

    def decrease(self) -> None:
        """The endpoint refused a request, or did not start an answer in time."""
        self._limit = max(1.0, self._limit * DECREASE_FACTOR)
