"""The order in which one request tries the endpoints, and when.

A *cycle* offers every endpoint once. While an endpoint of the cycle is available and was not tried, it is
tried without a wait. Otherwise the request waits for the endpoint that becomes available first. An endpoint
returns in the next cycle if it was busy or failed with an error that may pass; after a timeout, an invalid
answer or a failed connection it is not tried again for this request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongars.inference.endpoints.breaker import NEVER
from mongars.inference.retry.backoff import backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from mongars.core.clock import Clock
    from mongars.inference.config import InferenceConfig
    from mongars.inference.endpoints.selection import EndpointSelection
    from mongars.inference.retry.failures import FailureClass

MAX_ATTEMPTS = 4
WAIT_JITTER = 0.2
"""Waits are extended by a random share up to this, so that requests refused together do not return together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedAttempt:
    """An attempt that is to be sent to the endpoint `url` at `at`, in seconds on the monotonic clock."""

    url: str
    at: float


class Rotation:
    """Plans the attempts of one request: to which endpoint each is sent, and when.

    In each cycle, every endpoint that can still be used is tried once. At most `MAX_ATTEMPTS` (4) attempts and
    `max_scale_cycles` cycles (of `config`; at least one) are planned. `session_id`: requests with the same one prefer
    the same endpoint; None: no preference. `random` returns a number in [0, 1), for random waits.
    """

    def __init__(
        self,
        selection: EndpointSelection,
        config: InferenceConfig,
        *,
        clock: Clock,
        random: Callable[[], float],
        session_id: str | None = None,
    ) -> None:
        self._selection = selection
        self._session_id = session_id
        self._clock = clock
        self._random = random
        self._ceilings = config.scaling_backoff
        self._untried = list(selection.urls)
        self._returning: dict[str, float] = {}
        self._cycles_left = max(1, config.max_scale_cycles) - 1
        self._attempts_left = min(len(self._untried) * (self._cycles_left + 1), MAX_ATTEMPTS)
        self._waits = 0

    def next(self, *, not_after: float) -> PlannedAttempt | None:
        """The next attempt to send; None if no attempt is left or none can start by `not_after` (monotonic seconds).

        The caller waits until the attempt's time, and calls `record_sent` if it sends it.
        """
        if self._attempts_left == 0:
            return None
        now = self._clock.monotonic()
        available = [url for url in self._untried if self._selection.available_at(url) <= now]
        if available:
            url = self._selection.choose(available, session_id=self._session_id)
            self._untried.remove(url)
            return PlannedAttempt(url=url, at=now)
        return self._delayed_attempt(now, not_after)

    def second_endpoint(self) -> str | None:
        """The URL of an endpoint to which a duplicate (hedge) of the request may be sent now; None if there is none.

        The endpoint was not tried for this request, may be sent requests now (its breaker is closed, it is not drained
        or busy) and is below its concurrency limit. None too if this request has no attempt left.
        """
        now = self._clock.monotonic()
        available = [
            url
            for url in self._untried
            if self._selection.available_at(url) <= now and self._selection.below_limit(url)
        ]
        return self._selection.choose(available) if available and self._attempts_left > 0 else None

    def record_hedge(self, url: str) -> None:
        """Record that a duplicate (hedge) was sent to `url`: one attempt less is left, and `url` counts as tried."""
        self._untried.remove(url)
        self._attempts_left -= 1

    def record_sent(self) -> None:
        """Record that the attempt returned by `next` was sent: one attempt less is left for this request."""
        self._attempts_left -= 1

    def record_failure(self, url: str, failure_class: FailureClass) -> None:
        """Record that the attempt at `url` failed.

        If `failure_class` is `busy` or `error`, this request may try the endpoint again in its next cycle, else not.
        """
        now = self._clock.monotonic()
        if failure_class == "busy":
            self._returning[url] = now  # `available_at` holds the time to wait
        elif failure_class == "error":
            self._returning[url] = now + self.delay(self._waits)

    def delay(self, nth: int) -> float:
        """Random wait in seconds before retry number `nth` (from 0): from 0 to its bound in `RAY_SCALING_BACKOFF`.

        The last bound applies to all later retries; without any bound, the wait is 0.
        """
        return backoff(nth, self._ceilings, self._random)

    def _delayed_attempt(self, now: float, not_after: float) -> PlannedAttempt | None:
        times = {url: self._selection.available_at(url) for url in self._untried}
        if self._cycles_left > 0:
            for url, earliest in self._returning.items():
                times[url] = max(earliest, self._selection.available_at(url))
        first = min(times.values(), default=NEVER)
        if first > not_after:
            return None
        url = next(url for url, time in times.items() if time == first)
        self._take(url)
        self._waits += 1
        wait = max(0.0, first - now)
        jittered = now + wait * (1 + WAIT_JITTER * self._random())
        return PlannedAttempt(url=url, at=max(first, min(jittered, not_after)))

    def _take(self, url: str) -> None:
        """Remove `url` from the endpoints untried in this cycle.

        If it was tried in this cycle already, the next cycle begins: its untried endpoints are those that may be tried
        again, without `url`.
        """
        if url in self._untried:
            self._untried.remove(url)
            return
        self._cycles_left -= 1
        self._untried += [other for other in self._returning if other != url]
        self._returning.clear()
