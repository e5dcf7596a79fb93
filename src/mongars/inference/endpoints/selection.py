"""Chooses the endpoint for a request, and computes how many requests all endpoints together can take.

Of the endpoints that are available and below their concurrency limit, two are drawn at random and the one
with the lower cost is taken: expected first-token time times requests in flight (power of two choices on a
peak EWMA). Requests of one session prefer the same endpoint, because its prompt cache holds their prompt
(rendezvous hashing), unless that endpoint has more than its share of the load or is much slower.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mongars.inference.endpoints.table import EndpointTable

UNTRIED_COST = 1e6
"""Cost per request in flight at an endpoint without latency samples, so that it gets one request at a time."""
LOAD_BOUND = 1.25
"""A session is sent to another endpoint when its own would have more than this many times the average load."""
SLOWER_BOUND = 2.0
"""A session is sent to another endpoint when the fastest one is more than this many times faster than its own."""


class EndpointSelection:
    """Chooses the endpoint to which a request is sent, by load, latency and the session of the request."""

    def __init__(self, table: EndpointTable) -> None:
        self._table = table
        self._clock = table.clock
        self._random = table.random

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs of all endpoints, in configured order."""
        return tuple(self._table.states)

    def choose(self, urls: Sequence[str], *, session_id: str | None = None) -> str:
        """The URL out of `urls` to which to send the next request; `urls` must not be empty.

        With `session_id`, always the same one for the same session and `urls`, unless it has more than 1.25 times the
        average requests in flight, more than twice the latency of the fastest, or was down in the last 10 s.
        Otherwise, the cheaper, by load and latency, of two drawn at random. An endpoint at its concurrency limit is
        chosen only if all of them are.
        """
        states = self._table.states
        candidates = [url for url in urls if states[url].below_limit] or list(urls)
        preferred = None if session_id is None else self._by_session(candidates, session_id)
        if preferred is not None:
            return preferred
        first = self._draw(len(candidates))
        second = first
        if candidates[1:]:
            second = (first + 1 + self._draw(len(candidates) - 1)) % len(candidates)
        pair = sorted((first, second))  # at equal cost the one configured first
        return min((candidates[number] for number in pair), key=self._cost)

    def available_at(self, url: str) -> float:
        """Monotonic time in seconds from which a request may be sent to `url`; a time in the past means at once.

        `NEVER` (infinity) if no such time is known: the endpoint is drained, its circuit breaker is open, its trial
        request is in flight, or it was busy so often in a row that requests do not wait for it. While more than half of
        the endpoints have an open breaker, and no other provider can answer, breakers are ignored, and only a drained
        endpoint is `NEVER`.
        """
        return self._table.available_at(url, self._clock.monotonic())

    def below_limit(self, url: str) -> bool:
        """Whether fewer requests are in flight at `url` than its concurrency limit allows."""
        return self._table.states[url].below_limit

    @property
    def capacity(self) -> int | None:
        """Number of requests that may be in flight at all endpoints together; None while no endpoint is available.

        The sum over all endpoints of: the concurrency limit, if the endpoint is up; one more than the requests in
        flight, if only a trial request may be sent to it; the requests in flight, if none may be sent.
        """
        now = self._clock.monotonic()
        states = self._table.states
        available = {url for url in states if self._table.available_at(url, now) <= now}
        if not available:
            return None
        total = 0
        for url, state in states.items():
            if url not in available:
                total += state.in_flight
            elif state.is_up:
                total += state.limit.value
            else:
                total += state.in_flight + 1
        return total

    def _cost(self, url: str) -> float:
        state, now = self._table.states[url], self._clock.monotonic()
        if not state.latency.known and state.in_flight:
            return UNTRIED_COST * state.in_flight
        return state.latency.at(now) * (state.in_flight + 1) / state.breaker.load_share(now)

    def _by_session(self, urls: Sequence[str], session_id: str) -> str | None:
        """The endpoint out of `urls` that a hash of the session id selects, always the same for the same `urls`.

        None if, with this request, it had more than 1.25 times the average number of requests in flight, if its
        latency is more than twice that of the fastest, or if its breaker closed again within the last 10 s.
        """
        url = max(urls, key=lambda url: hashlib.sha256(f"{session_id} {url}".encode()).digest())
        state, now = self._table.states[url], self._clock.monotonic()
        total = sum(self._table.states[url].in_flight for url in urls)
        fastest = self._table.fastest(urls) or 0.0
        overloaded = state.in_flight + 1 > math.ceil(LOAD_BOUND * (total + 1) / len(urls))
        slow = state.latency.last > SLOWER_BOUND * fastest
        return None if overloaded or slow or state.breaker.load_share(now) < 1 else url

    def _draw(self, count: int) -> int:
        return int(self._random() * count) % count
