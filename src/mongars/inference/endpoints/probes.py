"""Which endpoints a background probe requests, and what its result means for the endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from mongars.inference.endpoints.latency import PeakEwma

if TYPE_CHECKING:
    from mongars.inference.endpoints.state import EndpointState
    from mongars.inference.endpoints.table import EndpointTable

PROBE_INTERVAL_SECONDS = 2.0
STARTING_PROBE_INTERVAL_SECONDS = 0.5
"""For an endpoint that responds and is not ready yet: it is likely to be ready soon."""
FRESH_SECONDS = 5.0
"""An endpoint that responded within this time is not probed to show its status."""

ProbeResult = Literal["ready", "reachable", "not_ready", "unreachable"]
"""`reachable`: a server responds there that has no readiness route."""


class EndpointProbes:
    """Plans background probes and records their results."""

    def __init__(self, table: EndpointTable) -> None:
        self._table = table
        self._clock = table.clock

    def due(self) -> tuple[str, ...]:
        """Endpoints to probe now; each is due again after `PROBE_INTERVAL_SECONDS`.

        Those that are down, those that failed since their last answer, and those without any response yet.
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
        """Endpoints whose state is unknown, or up by a response older than `FRESH_SECONDS`."""
        before = self._clock.monotonic() - FRESH_SECONDS
        return tuple(
            url
            for url, state in self._table.states.items()
            if not state.known
            or (state.is_up and not state.in_flight and state.last_response_at < before)
        )

    def record(self, url: str, result: ProbeResult, *, error: str | None = None) -> bool:
        """Record a result and its error. Returns whether it changed what was last reported.

        `not_ready` takes no endpoint down that was not: the first request gets its `Retry-After`.
        """
        state = self._table.states[url]
        if state.in_flight and state.is_up:
            return False  # the request in flight shows its state better than a probe
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
