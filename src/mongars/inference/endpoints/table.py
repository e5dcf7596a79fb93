"""The states of all endpoints, shared by the parts of an `EndpointPool`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongars.inference.endpoints.breaker import NEVER
from mongars.inference.endpoints.state import EndpointState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mongars.core.clock import Clock


class EndpointTable:
    """One `EndpointState` per URL, in configured order."""

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
        """See `EndpointPool`."""
        self.clock = clock
        self.random = random
        self._rest_after = max(1, rest_after)
        self._sole_provider = sole_provider
        self._initial_limit = -(-max_requests // max(1, len(urls)))
        self.states = {url: self._new_state() for url in urls}
        self.ids = {f"ray-{number}": url for number, url in enumerate(urls, start=1)}
        """URL by the endpoint id that operators use."""

    def available_at(self, url: str, now: float) -> float:
        """When a request may go there: a past time means now, `NEVER` means do not wait for it."""
        state = self.states[url]
        if state.drained:
            return NEVER
        return state.not_before if self._in_panic_mode(now) else state.available_at(now)

    def reset(self, url: str) -> None:
        """Replace what is recorded of that endpoint; requests in flight stay counted."""
        fresh = self._new_state()
        fresh.in_flight = self.states[url].in_flight
        fresh.reset_at = self.clock.monotonic()
        self.states[url] = fresh

    def fastest(self, urls: Iterable[str]) -> float | None:
        """Seconds to the first token of the fastest of these; None while no latency is known."""
        known = (s.latency.last for url in urls if (s := self.states[url]).latency.known)
        return min(known, default=None)

    def _new_state(self) -> EndpointState:
        return EndpointState(
            random=self.random, limit=self._initial_limit, rest_after=self._rest_after
        )

    def _in_panic_mode(self, now: float) -> bool:
        """Whether breakers are ignored: most are open, and no other provider can answer."""
        if not self._sole_provider:
            return False
        down = sum(s.breaker.available_at(now) == NEVER for s in self.states.values())
        return down > len(self.states) / 2
