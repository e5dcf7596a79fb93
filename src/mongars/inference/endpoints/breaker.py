"""The circuit breaker of one endpoint: its states and the only transitions between them.

| state       | signal            | next        | when                                                    |
|-------------|-------------------|-------------|---------------------------------------------------------|
| `closed`    | `tripped`         | `open`      | too many failures, or one that opens it at once         |
| `open`      | `trial_started`   | `half_open` | the open time is over, or a probe ended it early        |
| `open`      | `restored`        | `closed`    | a probe found the endpoint ready; load grows slowly     |
| `half_open` | `trial_succeeded` | `closed`    | the trial request got its first token; load grows slowly |
| `half_open` | `trial_failed`    | `open`      | the trial request failed; the open time doubles         |
| `half_open` | `trial_lost`      | `open`      | the trial request ended without a result                |

A *trial* is the single request that is sent while the breaker is half open. All other signals leave the state
unchanged. Failures of requests that were sent before the last counted failure are not counted: ten requests that
fail together are one failure. A request sent before the breaker opened neither closes nor reopens it.

A streamed answer counts as a success at its end, not at its first token: an endpoint that starts every
answer and completes none opens its breaker. Thresholds follow Envoy's outlier detection (5 in a row) and
the usual failure rate over a window. Open times double with *equal jitter*: half fixed, half random (AWS
Architecture Blog, "Exponential Backoff And Jitter").
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

State = Literal["closed", "open", "half_open"]
Signal = Literal[
    "tripped", "trial_started", "restored", "trial_succeeded", "trial_failed", "trial_lost"
]

TRANSITIONS: dict[tuple[State, Signal], State] = {
    ("closed", "tripped"): "open",
    ("open", "trial_started"): "half_open",
    ("open", "restored"): "closed",
    ("half_open", "trial_succeeded"): "closed",
    ("half_open", "trial_failed"): "open",
    ("half_open", "trial_lost"): "open",
}

CONSECUTIVE_FAILURES = 5
WINDOW_SECONDS = 30.0
WINDOW_MIN_REQUESTS = 5
FAILURE_RATE = 0.5
INITIAL_OPEN_SECONDS = 5.0
MAX_OPEN_SECONDS = 30.0
"""Longest open time; bounds the recovery time of an endpoint that a probe cannot restore (ADR 0013)."""
LEASE_SECONDS = 60.0
"""Seconds after which a trial request without a result counts as lost, so that another one is allowed."""
SLOW_START_SECONDS = 10.0
SLOW_START_FROM = 0.1

NEVER = math.inf


class Breaker:
    """The circuit breaker of one endpoint: decides from recorded outcomes whether requests may be sent to it.

    All times are seconds on the monotonic clock. After failures it is open; then one trial request decides whether it
    closes. A request is identified by its `ticket`, any object, which is compared by identity.
    """

    def __init__(self, *, random: Callable[[], float]) -> None:
        self._random = random
        self.state: State = "closed"
        self._outcomes: deque[tuple[float, bool]] = deque()
        self._in_a_row = 0
        self._trips = 0
        self._counted_at = -math.inf
        self._open_until = -math.inf
        self._trial: tuple[object, float] | None = None
        self._closed_at = -math.inf

    @property
    def failures(self) -> int:
        """Number of failures in a row; a completed or busy response, and closing the breaker, reset it to 0.

        Failures that are the client's fault are not recorded. Of requests that fail together, only the first failure
        counts: one of a request sent before the last recorded failure is ignored.
        """
        return self._in_a_row

    def available_at(self, now: float) -> float:
        """A time up to `now` if a request may be sent to the endpoint at `now`, else `NEVER` (infinity).

        `now`: monotonic seconds. The result is never a later, finite time, because requests do not wait for an open
        breaker.
        """
        self._end_lost_trial(now)
        if self.state == "closed":
            return -math.inf
        return NEVER if self.state == "half_open" or self._open_until > now else self._open_until

    def seconds_to_trial(self, now: float) -> float:
        """Seconds from `now` (monotonic seconds) until the open time is over and a trial request may be sent.

        0 if it is over or the breaker is closed. A trial request in flight, which prevents another one, is not
        considered.
        """
        return 0.0 if self.state == "closed" else max(0.0, self._open_until - now)

    def load_share(self, now: float) -> float:
        """Share of its usual load to send to the endpoint at `now` (monotonic seconds), from 0.1 to 1 (all).

        It grows from 0.1 to 1 in the 10 s after the breaker has closed again, so that a recovered endpoint is not
        flooded; else it is 1. Whether requests may be sent at all is not considered.
        """
        grown = (now - self._closed_at) / SLOW_START_SECONDS
        return min(1.0, SLOW_START_FROM + (1 - SLOW_START_FROM) * grown)

    def start_trial(self, ticket: object, now: float) -> None:
        """Record that a request sent at `now` (monotonic seconds) is the trial request of the open breaker.

        `ticket`: any object that stands for the request, compared by identity. Until it has a result, or for
        `LEASE_SECONDS` (60 s), no other request is allowed. Call it only while the breaker is open and `available_at`
        allows the request.
        """
        self._move("trial_started")
        self._trial = (ticket, now)

    def record_first_token(self, ticket: object, now: float) -> None:
        """Record that the first token of a request arrived at `now` (monotonic seconds).

        `ticket`: the object that stands for the request. If it is the trial request, the breaker closes; else nothing
        changes.
        """
        if self._is_trial(ticket):
            self._trial = None
            self._close("trial_succeeded", now)

    def record_completed(self, now: float) -> None:
        """Record that an answer was completed at `now` (monotonic seconds).

        While the breaker is closed, this resets two values: the number of failures in a row, and the open time, which
        doubles each time the breaker opens.
        """
        self._note(now, ok=True)
        if self.state == "closed":
            self._in_a_row = self._trips = 0

    def record_failure(self, ticket: object, sent_at: float, now: float, *, decisive: bool) -> bool:
        """Record that a request failed; returns True if the breaker opens by it.

        `ticket`: the object that stands for the request. It was sent at `sent_at` and failed at `now` (monotonic
        seconds). The failure of the trial request always opens the breaker. Any other is ignored while the breaker is
        not closed, or if another failure was recorded, or a probe found the endpoint down, after `sent_at`. Else the
        breaker opens if `decisive` is true, at 5 failures in a row, or if at least half of the outcomes of the last 30
        s, 5 or more, are failures.
        """
        if self._is_trial(ticket):
            self._trial = None
            self._counted_at = now
            self._open("trial_failed", now)
            return True
        if self.state != "closed" or not self.is_new(sent_at):
            return False
        self._counted_at = now
        self._in_a_row += 1
        self._note(now, ok=False)
        if not (decisive or self._in_a_row >= CONSECUTIVE_FAILURES or self._rate_exceeded()):
            return False
        self._open("tripped", now)
        return True

    def is_new(self, sent_at: float) -> bool:
        """Whether no failure was recorded after `sent_at`, the time (monotonic seconds) at which a request was sent.

        If one was, also by a probe that found the endpoint down, a failure of that request is not recorded, since it
        may have the same cause.
        """
        return sent_at >= self._counted_at

    def trip(self, now: float) -> None:
        """Open the breaker at `now` (monotonic seconds), because a probe found the endpoint down.

        It stays open, also if it was open already, for at least `INITIAL_OPEN_SECONDS` (5 s) from `now`.
        """
        if self.state == "closed":
            self._counted_at = now
            self._open("tripped", now)
        self._open_until = max(self._open_until, now + INITIAL_OPEN_SECONDS)

    def record_busy(self) -> None:
        """Record a busy response, neither success nor failure: it resets the number of failures in a row to 0."""
        self._in_a_row = 0

    def release(self, ticket: object) -> None:
        """Record the end of a request; `ticket`: the object that stands for it, compared by identity.

        If it is the trial request and has had neither a first token nor a failure, another trial request is allowed.
        """
        if self._is_trial(ticket):
            self._trial = None
            self._move("trial_lost")

    def record_probe(self, now: float, *, ready: bool) -> None:
        """Record that a background probe reached the endpoint at `now` (monotonic seconds); only matters while open.

        `ready` True: the endpoint reported itself as ready, and the breaker closes. False: a trial request is allowed
        at once.
        """
        if self.state != "open":
            return
        if ready:
            self._close("restored", now)
        else:
            self._open_until = min(self._open_until, now)

    def _is_trial(self, ticket: object) -> bool:
        return self._trial is not None and self._trial[0] is ticket

    def _end_lost_trial(self, now: float) -> None:
        if self._trial is not None and now - self._trial[1] > LEASE_SECONDS:
            self._trial = None
            self._move("trial_lost")

    def _close(self, signal: Signal, now: float) -> None:
        self._move(signal)
        self._closed_at = now
        self._outcomes.clear()
        self._in_a_row = 0

    def _open(self, signal: Signal, now: float) -> None:
        self._move(signal)
        longest = min(MAX_OPEN_SECONDS, INITIAL_OPEN_SECONDS * 2.0 ** min(self._trips, 10))
        self._trips += 1
        self._open_until = now + longest * (0.5 + 0.5 * self._random())

    def _move(self, signal: Signal) -> None:
        self.state = TRANSITIONS[self.state, signal]

    def _note(self, now: float, *, ok: bool) -> None:
        self._outcomes.append((now, ok))
        while self._outcomes[0][0] < now - WINDOW_SECONDS:
            self._outcomes.popleft()

    def _rate_exceeded(self) -> bool:
        failed = sum(not ok for _, ok in self._outcomes)
        requests = len(self._outcomes)
        return requests >= WINDOW_MIN_REQUESTS and failed >= FAILURE_RATE * requests
