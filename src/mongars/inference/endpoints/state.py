"""The state of one endpoint, and the lease with which one request is sent to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongars.inference.endpoints.aimd_limit import ConcurrencyLimit
from mongars.inference.endpoints.breaker import NEVER, Breaker
from mongars.inference.endpoints.latency import PeakEwma

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EndpointLease:
    """A permission to send one request to the endpoint `url`; give it back with `EndpointLeases.release`."""

    url: str
    acquired_at: float
    """Monotonic time in seconds at which the lease was granted."""
    is_trial: bool
    """Whether the request is a trial: the only one at a time at an endpoint that failed or was busy."""


class EndpointState:
    """The state of one endpoint: circuit breaker, concurrency limit, latency, counters. Times are monotonic seconds."""

    def __init__(self, *, random: Callable[[], float], limit: int, rest_after: int) -> None:
        """`limit`: initial limit of the requests in flight at the endpoint; `random` returns a number in [0, 1).

        `rest_after`: number of busy responses in a row after which no requests are sent to the endpoint for some
        seconds.
        """
        self.breaker = Breaker(random=random)
        self.latency = PeakEwma()
        self.limit = ConcurrencyLimit(limit)
        self.known = False
        """Whether any response, failure or probe result has been recorded."""
        self.drained = False
        """Whether an operator has taken the endpoint out of use."""
        self.in_flight = 0
        self.not_before = -math.inf
        """No request is sent before this time; set by `Retry-After` and repeated busy responses."""
        self.busy_count = 0
        """Busy responses since the last started answer or failure."""
        self.busy_at = -math.inf
        self.long_wait = False
        """Whether the last wait was so long that one trial request is sent before others."""
        self.trial_lease: EndpointLease | None = None
        """Lease of the trial request in flight after a wait or rest; None if there is none."""
        self.last_response_at = -math.inf
        self.last_answer_at = -math.inf
        """Time at which an answer last started or completed."""
        self.failed_since_answer = False
        self.reset_at = -math.inf
        """Time of the last reset by an operator; failures of requests sent before it are ignored."""
        self.next_probe_at = -math.inf
        self.probe_can_restore = False
        """Whether a successful probe ends the down time: True if a probe would have detected its cause."""
        self.reported_down = False
        self.last_error: str | None = None
        self.adapter_version: str | None = None
        self._rest_after = rest_after

    @property
    def below_limit(self) -> bool:
        """Whether fewer requests are in flight at this endpoint than its concurrency limit allows."""
        return self.in_flight < self.limit.value

    @property
    def busy_too_often(self) -> bool:
        """Whether the endpoint has given at least `rest_after` busy responses since its last answer or failure.

        If so, no request waits for it: others are tried, or the request fails.
        """
        return self.busy_count >= self._rest_after

    @property
    def needs_trial(self) -> bool:
        """Whether only one request at a time, a trial, may be sent to the endpoint, until an answer has started.

        True after it demanded a wait of more than 10 s, or gave `rest_after` busy responses in a row.
        """
        return self.long_wait or self.busy_too_often

    @property
    def is_up(self) -> bool:
        """Whether the endpoint gets requests up to its concurrency limit: breaker closed, no trial request needed."""
        return self.breaker.state == "closed" and not self.needs_trial

    @property
    def busy_beyond_limit(self) -> int:
        """By how much the number of busy responses in a row exceeds `rest_after`; negative if it is less."""
        return self.busy_count - self._rest_after

    def available_at(self, now: float) -> float:
        """Monotonic time in seconds from which this endpoint may be sent a request; a time up to `now` means at once.

        `NEVER` (infinity) if the circuit breaker is open, a trial request is in flight, or the endpoint was busy so
        often in a row that requests do not wait for it.
        """
        breaker = self.breaker.available_at(now)
        resting = self.busy_too_often and self.not_before > now
        if breaker == NEVER or self.trial_lease is not None or resting:
            return NEVER
        return max(breaker, self.not_before)

    def end_trial(self, lease: EndpointLease) -> None:
        """If `lease` belongs to the trial request in flight at this endpoint, allow another trial request.

        `lease`: the permission under which a request was sent; if it is another one, nothing changes.
        """
        if self.trial_lease is lease:
            self.trial_lease = None

    def report(self, *, down: bool) -> bool:
        """Record in `reported_down` whether the endpoint is down; True if that changes the value (False at first)."""
        changed = self.reported_down is not down
        self.reported_down = down
        return changed
