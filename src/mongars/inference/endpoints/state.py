"""What is recorded about one endpoint, and the permission to send one request to it."""

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
    """Permission to send one request to an endpoint; returned with `EndpointLeases.release`."""

    url: str
    acquired_at: float
    """Monotonic seconds."""
    is_trial: bool
    """Whether this request tests an endpoint that failed or was busy, as the only one at a time."""


class EndpointState:
    """Breaker, concurrency limit, latency and counters of one endpoint; times are monotonic seconds."""

    def __init__(self, *, random: Callable[[], float], limit: int, rest_after: int) -> None:
        """`limit`: requests in flight to begin with; `rest_after`: busy responses until it rests."""
        self.breaker = Breaker(random=random)
        self.latency = PeakEwma()
        self.limit = ConcurrencyLimit(limit)
        self.known = False
        """Whether any response or probe has shown anything about it."""
        self.drained = False
        """Whether an operator has taken it out of use."""
        self.in_flight = 0
        self.not_before = -math.inf
        """No request goes there before this time; set by `Retry-After` and repeated busy responses."""
        self.busy_count = 0
        """Busy responses since an answer last started or failed."""
        self.busy_at = -math.inf
        self.long_wait = False
        """Whether the last wait was so long that one trial request goes first."""
        self.trial_lease: EndpointLease | None = None
        """The trial request under way after a rest; the breaker holds its own."""
        self.last_response_at = -math.inf
        self.last_answer_at = -math.inf
        """When an answer last started or completed there."""
        self.failed_since_answer = False
        self.reset_at = -math.inf
        """Failures of requests sent earlier are ignored: an operator has reset the endpoint."""
        self.next_probe_at = -math.inf
        self.probe_can_restore = False
        """Whether a successful probe ends the down time, because a probe would have seen its cause."""
        self.reported_down = False
        self.last_error: str | None = None
        self.adapter_version: str | None = None
        self._rest_after = rest_after

    @property
    def below_limit(self) -> bool:
        """Whether fewer requests are in flight than its concurrency limit allows."""
        return self.in_flight < self.limit.value

    @property
    def busy_too_often(self) -> bool:
        """Whether it was busy so often in a row that requests no longer wait for it."""
        return self.busy_count >= self._rest_after

    @property
    def needs_trial(self) -> bool:
        """Whether one request at a time must show first that it is no longer busy."""
        return self.long_wait or self.busy_too_often

    @property
    def is_up(self) -> bool:
        """Whether it takes requests up to its limit."""
        return self.breaker.state == "closed" and not self.needs_trial

    @property
    def busy_beyond_limit(self) -> int:
        """Busy responses in a row beyond the number after which it rests."""
        return self.busy_count - self._rest_after

    def available_at(self, now: float) -> float:
        """When a request may go there: a past time means now, `NEVER` means do not wait for it."""
        breaker = self.breaker.available_at(now)
        resting = self.busy_too_often and self.not_before > now
        if breaker == NEVER or self.trial_lease is not None or resting:
            return NEVER
        return max(breaker, self.not_before)

    def end_trial(self, lease: EndpointLease) -> None:
        """Allow the next trial, if `lease` was the one under way."""
        if self.trial_lease is lease:
            self.trial_lease = None

    def report(self, *, down: bool) -> bool:
        """Record that it is down, or reachable; returns whether it was last reported otherwise."""
        changed = self.reported_down is not down
        self.reported_down = down
        return changed
