"""What operators see of the endpoints, and what they can do: drain one, or reset it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mongars.inference.endpoints.breaker import NEVER

if TYPE_CHECKING:
    from mongars.inference.endpoints.state import EndpointState
    from mongars.inference.endpoints.table import EndpointTable

StateName = Literal["unknown", "up", "warming", "resting", "down", "untested", "probing", "drained"]
"""`warming`: up again, with a part of its load. `resting`: left alone after `Retry-After` or repeated busy
responses. `untested`: its down time is over, or a probe succeeded, and no request was sent since.
`probing`: a trial request is under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointStatus:
    """The state of one endpoint as shown to operators; times are in seconds.

    `opens_in` is None while a trial request decides; `first_token_seconds` is the average that choices
    are made by, None before the first answer.
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
    """Shows the endpoints of one pool, and takes them out of use or back into it."""

    def __init__(self, table: EndpointTable) -> None:
        self._table = table
        self._clock = table.clock

    def statuses(self) -> tuple[EndpointStatus, ...]:
        """The status of every endpoint now, in configured order."""
        return tuple(self._status(name, url) for name, url in self._table.ids.items())

    def retry_after(self) -> float | None:
        """Seconds until the first endpoint that is left alone may be used; None if none is."""
        now = self._clock.monotonic()
        waits = [s.not_before - now for s in self._table.states.values() if s.not_before > now]
        return min(waits, default=None)

    def drain(self, endpoint_id: str) -> bool:
        """Send no further requests there until `reset`; False if there is no such endpoint."""
        url = self._table.ids.get(endpoint_id)
        if url is not None:
            self._table.states[url].drained = True
        return url is not None

    def reset(self, endpoint_id: str) -> bool:
        """Forget failures, waits and latency, and use it again; False if there is no such endpoint."""
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
