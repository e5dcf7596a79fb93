"""A circuit breaker for one endpoint: the states, and the only ways between them.

| state       | signal      | next        | because                                               |
|-------------|-------------|-------------|-------------------------------------------------------|
| `closed`    | `tripped`   | `open`      | it failed too often, or in a way that leaves no doubt |
| `open`      | `leased`    | `half_open` | its time is over, or a background probe vouched for it |
| `open`      | `restored`  | `closed`    | a background probe found it ready; more follow slowly |
| `half_open` | `succeeded` | `closed`    | the first token came; more follow slowly              |
| `half_open` | `failed`    | `open`      | for twice as long                                     |
| `half_open` | `lost`      | `open`      | the one request that tested it left without a result |

Everything else leaves the state as it is. Requests that were begun before a failure was counted do not
repeat it: ten requests failing together are one failure, not ten, and an answer that was begun
before the breaker opened says nothing about now.

The outcome of a stream counts at its end: an endpoint that begins every answer and finishes none
opens. Thresholds follow Envoy's outlier detection (5 in a row) and the usual failure rate over a
window; times double with *equal jitter* (half fixed, half random; AWS Architecture Blog, "Exponential
Backoff And Jitter").
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

State = Literal["closed", "open", "half_open"]
Signal = Literal["tripped", "leased", "restored", "succeeded", "failed", "lost"]

TRANSITIONS: dict[tuple[State, Signal], State] = {
    ("closed", "tripped"): "open",
    ("open", "leased"): "half_open",
    ("open", "restored"): "closed",
    ("half_open", "succeeded"): "closed",
    ("half_open", "failed"): "open",
    ("half_open", "lost"): "open",
}

CONSECUTIVE_FAILURES = 5
WINDOW_SECONDS = 30.0
WINDOW_MIN_REQUESTS = 5
FAILURE_RATE = 0.5
INITIAL_OPEN_SECONDS = 5.0
MAX_OPEN_SECONDS = 30.0
"""Bounds the time to recovery of an endpoint that no probe can vouch for (ADR 0013)."""
LEASE_SECONDS = 60.0
"""A test that says nothing for so long is taken for lost."""
SLOW_START_SECONDS = 10.0
SLOW_START_FROM = 0.1

NEVER = math.inf


class Breaker:
    """Decides whether requests may go to one endpoint. All times are monotonic seconds."""

    def __init__(self, *, random: Callable[[], float]) -> None:
        self._random = random
        self.state: State = "closed"
        self._outcomes: deque[tuple[float, bool]] = deque()
        self._in_a_row = 0
        self._trips = 0
        self._judged_at = -math.inf
        self._open_until = -math.inf
        self._lease: tuple[object, float] | None = None
        self._closed_at = -math.inf

    @property
    def failures(self) -> int:
        """Failures in a row."""
        return self._in_a_row

    def opens_at(self, now: float) -> float:
        """A moment that is past when a request may go now; `NEVER` while it may not.

        Nobody waits for an open breaker, so it never names a moment to come.
        """
        self._end_stale_lease(now)
        if self.state == "closed":
            return -math.inf
        return NEVER if self.state == "half_open" or self._open_until > now else self._open_until

    def open_for(self, now: float) -> float:
        """Seconds until it may be tested; 0 when it is not open."""
        return 0.0 if self.state == "closed" else max(0.0, self._open_until - now)

    def share(self, now: float) -> float:
        """The part of its usual load it should get: less after it was open, growing to 1."""
        grown = (now - self._closed_at) / SLOW_START_SECONDS
        return min(1.0, SLOW_START_FROM + (1 - SLOW_START_FROM) * grown)

    def leave(self, ticket: object, now: float) -> bool:
        """A request goes out, after `opens_at` said that it may; whether it is the test."""
        if self.state == "closed":
            return False
        self._move("leased")
        self._lease = (ticket, now)
        return True

    def began(self, ticket: object, now: float) -> None:
        """Its first token came: that ends a test."""
        if self._holds(ticket):
            self._lease = None
            self._close("succeeded", now)

    def finished(self, now: float) -> None:
        """A stream came to its end."""
        self._note(now, ok=True)
        if self.state == "closed":
            self._in_a_row = self._trips = 0

    def failed(self, ticket: object, sent_at: float, now: float, *, decisive: bool) -> bool:
        """A request failed, before or after its first token; whether that opened it."""
        if self._holds(ticket):
            self._lease = None
            self._judged_at = now
            self._open("failed", now)
            return True
        if self.state != "closed" or not self.is_news(sent_at):
            return False
        self._judged_at = now
        self._in_a_row += 1
        self._note(now, ok=False)
        if not (decisive or self._in_a_row >= CONSECUTIVE_FAILURES or self._failing()):
            return False
        self._open("tripped", now)
        return True

    def is_news(self, sent_at: float) -> bool:
        """Whether a failure of a request sent then says more than the last failure did."""
        return sent_at >= self._judged_at

    def trip(self, now: float) -> None:
        """Open at once, or stay open at least until the first open time is over."""
        if self.state == "closed":
            self._judged_at = now
            self._open("tripped", now)
        self._open_until = max(self._open_until, now + INITIAL_OPEN_SECONDS)

    def busy(self) -> None:
        """It answered that it is busy: it is there, but that is neither success nor failure."""
        self._in_a_row = 0

    def released(self, ticket: object) -> None:
        """The request is over; if it was the test and gave no verdict, the next one may be it."""
        if self._holds(ticket):
            self._lease = None
            self._move("lost")

    def restored(self, now: float) -> None:
        """A background probe found it ready, and that is what it had failed for."""
        if self.state == "open":
            self._close("restored", now)

    def vouched(self, now: float) -> None:
        """A background probe says that somebody is there: let one request find out."""
        if self.state == "open":
            self._open_until = min(self._open_until, now)

    def _holds(self, ticket: object) -> bool:
        return self._lease is not None and self._lease[0] is ticket

    def _end_stale_lease(self, now: float) -> None:
        if self._lease is not None and now - self._lease[1] > LEASE_SECONDS:
            self._lease = None
            self._move("lost")

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

    def _failing(self) -> bool:
        failed = sum(not ok for _, ok in self._outcomes)
        return len(self._outcomes) >= WINDOW_MIN_REQUESTS and failed >= FAILURE_RATE * len(
            self._outcomes
        )
