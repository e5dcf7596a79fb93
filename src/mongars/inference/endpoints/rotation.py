"""Which endpoint a request tries next, and when: rotation first, patience last.

A *cycle* offers every endpoint once. An endpoint that is open now is tried at once; only when
none is left does the request wait, for whichever opens first. An endpoint comes back in the next
cycle if its failure was of a kind that a second try can mend.
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
    from mongars.inference.endpoints.pool import EndpointPool
    from mongars.inference.retry.failures import FailureClass

MAX_ATTEMPTS = 4
WAIT_JITTER = 0.2
"""Waits grow by up to this share, so that those sent away together do not return together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedAttempt:
    """Try this endpoint at that moment of the monotonic clock."""

    url: str
    at: float


class Rotation:
    """The way of one request through the endpoints."""

    def __init__(
        self,
        pool: EndpointPool,
        config: InferenceConfig,
        *,
        clock: Clock,
        random: Callable[[], float],
        session_id: str | None = None,
    ) -> None:
        self._pool = pool
        self._session_id = session_id
        self._clock = clock
        self._random = random
        self._ceilings = config.scaling_backoff
        self._fresh = list(pool.urls)
        self._returning: dict[str, float] = {}
        self._cycles_left = max(1, config.max_scale_cycles) - 1
        self._attempts_left = min(len(self._fresh) * (self._cycles_left + 1), MAX_ATTEMPTS)
        self._waits = 0

    def next(self, *, not_after: float) -> PlannedAttempt | None:
        """The next attempt; None when it would be too late, too often or in vain."""
        if self._attempts_left == 0:
            return None
        now = self._clock.monotonic()
        open_now = [url for url in self._fresh if self._pool.opens_at(url) <= now]
        if open_now:
            url = self._pool.choose(open_now, session_id=self._session_id)
            self._fresh.remove(url)
            return PlannedAttempt(url=url, at=now)
        return self._delayed_attempt(now, not_after)

    def second_endpoint(self) -> str | None:
        """The endpoint for a hedge: a second attempt, sent while the first is under way. None if there is none."""
        now = self._clock.monotonic()
        able = [
            url
            for url in self._fresh
            if self._pool.opens_at(url) <= now and self._pool.has_room(url)
        ]
        return self._pool.choose(able) if able and self._attempts_left > 0 else None

    def record_hedge(self, url: str) -> None:
        """The second attempt was sent there."""
        self._fresh.remove(url)
        self._attempts_left -= 1

    def record_sent(self) -> None:
        """The planned attempt was sent."""
        self._attempts_left -= 1

    def record_failure(self, url: str, failure_class: FailureClass) -> None:
        """The attempt failed, as `failure_class` says."""
        now = self._clock.monotonic()
        if failure_class == "busy":
            self._returning[url] = now  # the pool knows for how long to leave it alone
        elif failure_class == "error":
            self._returning[url] = now + self.delay(self._waits)

    def delay(self, nth: int) -> float:
        """A jittered wait from the configured ceilings."""
        return backoff(nth, self._ceilings, self._random)

    def _delayed_attempt(self, now: float, not_after: float) -> PlannedAttempt | None:
        moments = {url: self._pool.opens_at(url) for url in self._fresh}
        if self._cycles_left > 0:
            for url, earliest in self._returning.items():
                moments[url] = max(earliest, self._pool.opens_at(url))
        first = min(moments.values(), default=NEVER)
        if first > not_after:
            return None
        url = next(url for url, moment in moments.items() if moment == first)
        self._take(url)
        self._waits += 1
        wait = max(0.0, first - now)
        jittered = now + wait * (1 + WAIT_JITTER * self._random())
        return PlannedAttempt(url=url, at=max(first, min(jittered, not_after)))

    def _take(self, url: str) -> None:
        if url in self._fresh:
            self._fresh.remove(url)
            return
        self._cycles_left -= 1
        self._fresh += [other for other in self._returning if other != url]
        self._returning.clear()
