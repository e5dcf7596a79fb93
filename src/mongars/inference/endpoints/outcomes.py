"""Updates an endpoint's state after each outcome: circuit breaker, concurrency limit, latency, waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from mongars.inference.endpoints.latency import PeakEwma

if TYPE_CHECKING:
    from mongars.inference.endpoints.state import EndpointLease
    from mongars.inference.endpoints.table import EndpointTable

INITIAL_REST_SECONDS = 1.0
MAX_REST_SECONDS = 10.0
FIRST_PROBE_SECONDS = 0.5
"""Seconds from the time an endpoint goes down to its first background probe."""
FAILURE_PENALTY = 2.0
"""Seconds added to the latency sample of a failure, because an endpoint that fails fast is not a fast one."""
FAILURE_FACTOR = 20.0
"""Upper bound of the penalty, as a multiple of the fastest endpoint's latency.

Samples fade with time: a fixed penalty would keep a fast endpoint out of use for a minute, and a slow one
for a few seconds.
"""

FailureKind = Literal["error", "timeout", "stalled", "unreachable"]
"""`error` is counted until a threshold opens the breaker; the others can open it at once.

`timeout`: no first token in time. `stalled`: no further token in time. `unreachable`: no connection, or no
Serve application at that address.
"""


class EndpointOutcomes:
    """Records how requests end, in the states of their endpoints: breaker, limit, latency, time until the next request.

    The argument `lease` of each method is the permission under which one request was sent; it has the URL of the
    endpoint and the time of sending.
    """

    def __init__(self, table: EndpointTable) -> None:
        self._table = table
        self._clock = table.clock

    def record_first_token(
        self,
        lease: EndpointLease,
        *,
        adapter_version: str | None = None,
        is_latency_sample: bool = True,
    ) -> bool:
        """Record that the first content of a request's answer, or its vectors, have arrived.

        `lease`: the permission under which the request was sent; it names the endpoint. `adapter_version`: as the
        endpoint reports it, None if it does not. `is_latency_sample`: whether the time since sending is used to
        compare endpoints. Returns True if the endpoint was reported as down before and now is up.
        """
        state, now = self._table.states[lease.url], self._clock.monotonic()
        state.known = True
        state.last_response_at = state.last_answer_at = now
        state.busy_count = 0
        state.long_wait = state.failed_since_answer = False
        state.adapter_version = adapter_version or state.adapter_version
        if lease.is_trial:
            state.latency = PeakEwma()  # samples from before the failure no longer apply
        if is_latency_sample:
            state.latency.observe(now - lease.acquired_at, now)
        state.limit.increase(state.in_flight)
        state.breaker.record_first_token(lease, now)
        state.end_trial(lease)
        return state.breaker.state == "closed" and state.report(down=False)

    def record_overtaken(self, lease: EndpointLease) -> None:
        """Record that a request was cancelled because its duplicate at another endpoint (a hedge) got a result first.

        `lease`: the permission under which the cancelled request was sent; it names the endpoint. The request's
        waiting time becomes a latency sample; it is not a failure of the endpoint.
        """
        now = self._clock.monotonic()
        self._table.states[lease.url].latency.at_least(now - lease.acquired_at, now)

    def record_completed(self, lease: EndpointLease) -> None:
        """Record a completed answer; the endpoint's number of failures in a row and its last error are cleared.

        `lease`: the permission under which the request was sent; it names the endpoint.
        """
        state, now = self._table.states[lease.url], self._clock.monotonic()
        state.last_response_at = state.last_answer_at = now
        state.breaker.record_completed(now)
        state.last_error = None

    def record_busy(self, lease: EndpointLease, *, wait: float) -> float:
        """Record a response that the endpoint is busy; no requests are sent to it for the next `wait` seconds.

        `lease`: the permission under which the request was sent; it names the endpoint. Returns the seconds for which
        none are sent: more than `wait` if an earlier wait ends later or the endpoint was busy too often in a row; 0,
        with no effect, if an operator reset the endpoint after the request was sent.
        """
        state, now = self._table.states[lease.url], self._clock.monotonic()
        if lease.acquired_at < state.reset_at:
            return 0.0
        state.known = True
        state.last_response_at = now
        state.not_before = max(state.not_before, now + wait)
        state.long_wait = state.long_wait or wait > MAX_REST_SECONDS
        state.latency.observe(now - lease.acquired_at + self._penalty(), now)
        if lease.acquired_at >= state.busy_at:  # requests refused together count once
            state.busy_at = now
            state.limit.decrease()
            state.breaker.record_busy()
            state.busy_count += 1
            if state.busy_too_often:
                rest = INITIAL_REST_SECONDS * 2.0 ** min(state.busy_beyond_limit, 10)
                state.not_before = max(state.not_before, now + min(MAX_REST_SECONDS, rest))
        return state.not_before - now

    def record_failure(self, lease: EndpointLease, *, error: str, kind: FailureKind) -> bool:
        """Record a failed request; `error`, a code or message, is shown to operators as the endpoint's last error.

        `lease`: the permission under which the request was sent; it names the endpoint. `kind`: `error`, `timeout` (no
        first token in time), `stalled` (no further token in time) or `unreachable`. The circuit breaker opens after
        several failures, but at once for `stalled` and `unreachable`, and for `timeout` if the endpoint has answered
        no other request meanwhile. Returns True if the breaker opened by it and the endpoint was not reported as down
        before. No effect, and False, if an operator reset the endpoint after the request was sent.
        """
        state, now = self._table.states[lease.url], self._clock.monotonic()
        if lease.acquired_at < state.reset_at:
            return False
        state.known = state.failed_since_answer = True
        state.last_error = error
        state.busy_count = 0
        state.long_wait = False
        state.next_probe_at = min(state.next_probe_at, now)
        state.latency.observe(now - lease.acquired_at + self._penalty(), now)
        # An endpoint that answered other requests meanwhile works, but is too busy for this one.
        unresponsive = kind == "timeout" and state.last_answer_at <= lease.acquired_at
        if kind == "timeout" and state.breaker.is_new(lease.acquired_at):
            state.limit.decrease()
        decisive = unresponsive or kind in {"stalled", "unreachable"}
        if not state.breaker.record_failure(lease, lease.acquired_at, now, decisive=decisive):
            return False
        state.next_probe_at = now + FIRST_PROBE_SECONDS
        state.probe_can_restore = kind == "unreachable"
        return state.report(down=True)

    def record_late(self, lease: EndpointLease, *, error: str) -> None:
        """Record that a result whose duration says little about the endpoint, such as vectors, did not come in time.

        `lease`: the permission under which the request was sent; it names the endpoint, which stays in use and is
        probed soon. `error`, a code or message, is shown to operators as its last error. No effect if an operator
        reset the endpoint after the request was sent.
        """
        state = self._table.states[lease.url]
        if lease.acquired_at < state.reset_at:
            return
        state.failed_since_answer = True
        state.last_error = error
        state.next_probe_at = min(state.next_probe_at, self._clock.monotonic())

    def _penalty(self) -> float:
        fastest = self._table.fastest(self._table.states)
        if fastest is None:
            return FAILURE_PENALTY
        return min(FAILURE_PENALTY, FAILURE_FACTOR * fastest)
