"""The table of endpoint states, shared by all parts of an `EndpointPool`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongars.inference.endpoints.breaker import NEVER
from mongars.inference.endpoints.state import EndpointState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mongars.core.clock import Clock


class EndpointTable:
    """Holds one `EndpointState` per endpoint URL, in configured order; all parts of an `EndpointPool` work on it."""

    def __init__(
        self,
        urls: tuple[str, ...],
        *,
        clock: Clock,
        random: Callable[[], float],
        rest_after: int,
        max_requests: int,
        sole_provider: bool,
    ) -> None:
        """Create the initial state of each endpoint in `urls`, which are in configured order.

        `max_requests`: requests in flight at all endpoints together; an equal part, at least 8, is each endpoint's
        first limit. `rest_after`: busy responses in a row after which no requests are sent to an endpoint for some
        seconds; less than 1 means 1. `random` returns a number in [0, 1). `sole_provider`: no other provider can
        answer, so that circuit breakers are ignored while more than half of them are open.
        """
        self.clock = clock
        self.random = random
        self._rest_after = max(1, rest_after)
        self._sole_provider = sole_provider
        self._initial_limit = -(-max_requests // max(1, len(urls)))
        self.states = {url: self._new_state() for url in urls}
        self.ids = {f"ray-{number}": url for number, url in enumerate(urls, start=1)}
        """The endpoint's URL by the id that operators use, such as `ray-1`."""

    def available_at(self, url: str, now: float) -> float:
        """Monotonic time in seconds from which a request may be sent to `url`; a time up to `now` means at once.

        `NEVER` (infinity) if no such time is known: the endpoint is drained, its circuit breaker is open, its trial
        request is in flight, or it was busy so often in a row that requests do not wait for it. While more than half of
        the endpoints have an open breaker, and no other provider can answer, breakers are ignored, and only a drained
        endpoint is `NEVER`.
        """
        state = self.states[url]
        if state.drained:
            return NEVER
        return state.not_before if self._in_panic_mode(now) else state.available_at(now)

    def reset(self, url: str) -> None:
        """Replace the state of the endpoint `url` by an initial one, not drained; requests in flight stay counted."""
        fresh = self._new_state()
        fresh.in_flight = self.states[url].in_flight
        fresh.reset_at = self.clock.monotonic()
        self.states[url] = fresh

    def fastest(self, urls: Iterable[str]) -> float | None:
        """The lowest average time to the first token of the endpoints `urls`, in seconds; None without any sample."""
        known = (s.latency.last for url in urls if (s := self.states[url]).latency.known)
        return min(known, default=None)

    def _new_state(self) -> EndpointState:
        return EndpointState(
            random=self.random, limit=self._initial_limit, rest_after=self._rest_after
        )

    def _in_panic_mode(self, now: float) -> bool:
        """Whether circuit breakers are ignored at `now`: more than half are open, and no other provider can answer."""
        if not self._sole_provider:
            return False
        down = sum(s.breaker.available_at(now) == NEVER for s in self.states.values())
        return down > len(self.states) / 2
