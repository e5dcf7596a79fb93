"""The state of the endpoints as shown to operators, and the operations `drain` and `reset`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mongars.inference.endpoints.breaker import NEVER

if TYPE_CHECKING:
    from mongars.inference.endpoints.state import EndpointState
    from mongars.inference.endpoints.table import EndpointTable

StateName = Literal["unknown", "up", "warming", "resting", "down", "untested", "probing", "drained"]
"""State of an endpoint as shown to operators.

`warming`: up after a failure, with a growing share of its load. `resting`: not used for a while after
`Retry-After` or repeated busy responses. `untested`: may be used again after a failure, but no request has been
sent since. `probing`: a trial request is in flight. `drained`: taken out of use by an operator.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointStatus:
    """The state of one endpoint as shown to operators; times are in seconds.

    `id`: such as `ray-1`. `state`: `unknown` (no result yet), `up`, `warming` (up after a failure, with a growing
    load), `resting` (not used for a while after busy responses), `down`, `untested` (may be tried again after a
    failure), `probing` (a trial request is in flight) or `drained`. `in_flight`, `limit`: requests in flight, and how
    many may be. `failures`, `busy`: failures and busy responses in a row. `opens_in`: time until requests may be sent
    again; None while the endpoint is drained, or until the result of the trial request in flight is known.
    `first_token_seconds`: average time to the first token, by which endpoints are compared; None while no request has
    had a result. `last_error`, `adapter_version`: None if there is none or it is not known.
    """

    id: str
    url: str
    state: StateName
    in_flight: int
    limit: int
    failures: int
    busy: int
    opens_in: float | None
    first_token_seconds: float | None
    last_error: str | None
    adapter_version: str | None


class EndpointControl:
    """What an operator sees of and does with the endpoints of one pool: shows their states, drains or resets one."""

    def __init__(self, table: EndpointTable) -> None:
        self._table = table
        self._clock = table.clock

    def statuses(self) -> tuple[EndpointStatus, ...]:
        """The current status of every endpoint, in configured order."""
        return tuple(self._status(name, url) for name, url in self._table.ids.items())

    def retry_after(self) -> float | None:
        """Seconds until an endpoint that was busy may be used again, the smallest over all endpoints.

        None if there is no such endpoint. Endpoints with an open circuit breaker do not matter here.
        """
        now = self._clock.monotonic()
        waits = [s.not_before - now for s in self._table.states.values() if s.not_before > now]
        return min(waits, default=None)

    def drain(self, endpoint_id: str) -> bool:
        """Send no further requests to the endpoint with this id (such as `ray-1`) until `reset`.

        Returns False for an unknown id.
        """
        url = self._table.ids.get(endpoint_id)
        if url is not None:
            self._table.states[url].drained = True
        return url is not None

    def reset(self, endpoint_id: str) -> bool:
        """Forget failures, waits and latency of the endpoint with this id (such as `ray-1`), and use it again.

        This also ends `drain`. Returns False for an unknown id.
        """
        url = self._table.ids.get(endpoint_id)
        if url is not None:
            self._table.reset(url)
        return url is not None

    def _status(self, name: str, url: str) -> EndpointStatus:
        state, now = self._table.states[url], self._clock.monotonic()
        opens = max(state.not_before - now, state.breaker.seconds_to_trial(now), 0.0)
        shown = _state_name(state, now)
        return EndpointStatus(
            id=name,
            url=url,
            state=shown,
            in_flight=state.in_flight,
            limit=state.limit.value,
            failures=state.breaker.failures,
            busy=state.busy_count,
            opens_in=None if shown in {"probing", "drained"} else opens,
            first_token_seconds=state.latency.at(now) if state.latency.known else None,
            last_error=state.last_error,
            adapter_version=state.adapter_version,
        )


def _state_name(state: EndpointState, now: float) -> StateName:
    if state.drained:
        return "drained"
    if not state.known:
        return "unknown"
    if state.trial_lease is not None or state.breaker.state == "half_open":
        return "probing"
    if state.breaker.state == "open":
        return "down" if state.breaker.available_at(now) == NEVER else "untested"
    if state.needs_trial or state.not_before > now:
        return "resting"
    return "up" if state.breaker.load_share(now) >= 1 else "warming"
