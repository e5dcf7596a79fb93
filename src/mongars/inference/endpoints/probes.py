"""Decides which endpoints are probed in the background, and records the results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from mongars.inference.endpoints.latency import PeakEwma

if TYPE_CHECKING:
    from mongars.inference.endpoints.state import EndpointState
    from mongars.inference.endpoints.table import EndpointTable

PROBE_INTERVAL_SECONDS = 2.0
STARTING_PROBE_INTERVAL_SECONDS = 0.5
"""Seconds between probes of an endpoint that responds but is not ready yet."""
FRESH_SECONDS = 5.0
"""Age in seconds of an endpoint's last response up to which its status is shown without a new probe."""

ProbeResult = Literal["ready", "reachable", "not_ready", "unreachable"]
"""Result of a request to an endpoint's readiness route.

`ready`: success. `reachable`: a server responds but has no readiness route. `not_ready`: it is busy or
starting. `unreachable`: no response.
"""


class EndpointProbes:
    """Decides which endpoints need a background probe, and records the results; sends nothing itself."""

    def __init__(self, table: EndpointTable) -> None:
        self._table = table
        self._clock = table.clock

    def due(self) -> tuple[str, ...]:
        """The URLs of the endpoints to probe now; a URL returned is not due again for `PROBE_INTERVAL_SECONDS` (2 s).

        An endpoint is due if its circuit breaker is not closed, if it failed since its last answer or probe, or if no
        response, failure or probe of it has been recorded yet.
        """
        now = self._clock.monotonic()
        due = []
        for url, state in self._table.states.items():
            down = state.breaker.state != "closed"
            if (
                not state.known or state.failed_since_answer or down
            ) and state.next_probe_at <= now:
                state.next_probe_at = now + PROBE_INTERVAL_SECONDS
                due.append(url)
        return tuple(due)

    def stale(self) -> tuple[str, ...]:
        """The URLs of the endpoints to probe before their states are shown to an operator.

        These are the ones of which no response, failure or probe has been recorded yet, and those that take requests
        as usual (not down and not busy), have no request in flight and have not responded for more than
        `FRESH_SECONDS` (5 s).
        """
        before = self._clock.monotonic() - FRESH_SECONDS
        return tuple(
            url
            for url, state in self._table.states.items()
            if not state.known
            or (state.is_up and not state.in_flight and state.last_response_at < before)
        )

    def record(self, url: str, result: ProbeResult, *, error: str | None = None) -> bool:
        """Record the result of a probe of `url`. Returns True if the endpoint thereby went down or came up again.

        `result`: `ready`; `reachable` (a server without a readiness route); `not_ready` (busy or starting), which keeps
        an endpoint up that was up; `unreachable`. `error`: shown to operators as its last error; None keeps the earlier
        one. No result changes an endpoint that is up and has requests in flight.
        """
        state = self._table.states[url]
        if state.in_flight and state.is_up:
            return False  # the outcome of the request in flight is better evidence than a probe
        was_down = state.breaker.state != "closed"
        state.failed_since_answer = False
        state.last_error = error or state.last_error
        if result in {"ready", "reachable"}:
            return self._record_success(state, ready=result == "ready", was_down=was_down)
        if result == "not_ready" and not was_down:
            return False
        now = self._clock.monotonic()
        state.known = True
        state.probe_can_restore = True
        state.breaker.trip(now)
        if result == "not_ready":
            state.next_probe_at = now + STARTING_PROBE_INTERVAL_SECONDS
        return state.report(down=True)

    def _record_success(self, state: EndpointState, *, ready: bool, was_down: bool) -> bool:
        now = self._clock.monotonic()
        state.known = True
        state.last_error = None
        state.last_response_at = now
        if not (was_down and state.probe_can_restore):
            return False
        state.breaker.record_probe(now, ready=ready)
        state.latency = PeakEwma()  # samples from before the failure no longer apply
        return state.report(down=False)
