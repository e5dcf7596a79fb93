"""Leases: permissions to send one request to an endpoint, which count the requests in flight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongars.inference.endpoints.state import EndpointLease

if TYPE_CHECKING:
    from mongars.inference.endpoints.table import EndpointTable


class EndpointLeases:
    """Grants leases, each a permission to send one request to an endpoint, and so counts the requests in flight."""

    def __init__(self, table: EndpointTable) -> None:
        self._table = table
        self._clock = table.clock

    def acquire(self, url: str) -> EndpointLease | None:
        """A lease (permission to send one request) for the endpoint `url`; None if no request may be sent to it now.

        The request counts as in flight from here on, before it is sent, so that requests that arrive together do not
        all choose the same endpoint. Give the lease back with `release`.
        """
        now = self._clock.monotonic()
        if self._table.available_at(url, now) > now:
            return None
        state = self._table.states[url]
        after_rest = state.needs_trial
        after_failure = state.breaker.state == "open"
        lease = EndpointLease(url=url, acquired_at=now, is_trial=after_failure or after_rest)
        if after_failure:
            state.breaker.start_trial(lease, now)
        if after_rest:
            state.trial_lease = lease
        state.in_flight += 1
        return lease

    def release(self, lease: EndpointLease) -> None:
        """Give back the lease (permission to send one request) of a request that has ended, with any outcome.

        Call it exactly once per lease.
        """
        state = self._table.states[lease.url]
        state.in_flight -= 1
        state.breaker.release(lease)
        state.end_trial(lease)
