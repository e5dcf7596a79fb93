"""What we know of each Ray endpoint, and whether a request may go there now.

An endpoint is *up* until its failures in a row reach `BLAME_LIMIT` (then it is *down*) or it was
busy `rest_after` times in a row (then it *rests*). Nothing is sent to it before `not_before`,
which a busy answer may only move later, so that `Retry-After` is never undercut.

While down or resting it is skipped, not waited for. When its time is over, exactly one request is
admitted as a probe and holds the lease until its first token, its failure or its end; only then
the others follow. The background prober ends a down time early when the endpoint had been gone or
not ready, for that is what a readiness route can vouch for; silence and rests run their time.

Requests that were already under way when a verdict fell do not repeat it: ten requests failing
together are one failure, not ten.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mongars.core.clock import Clock

BLAME_LIMIT = 3
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 10.0
FIRST_PROBE = 0.5
PROBE_EVERY = 2.0
FRESH_FOR = 5.0
"""For so long an endpoint that answered is believed to be there without asking again."""
PROBE_GRACE = 5.0
"""After a failed background probe the endpoint stays down this long: until well past the next."""

NEVER = math.inf
Blame = Literal["mark", "silent", "gone"]
"""A `mark` counts; `silent` and `gone` take the endpoint for down at once."""

Probe = Literal["ready", "not_ready", "unreachable"]
State = Literal["unknown", "up", "resting", "down", "probing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """Leave to send one request to an endpoint; to be handed back with `release`."""

    url: str
    at: float
    probe: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointStatus:
    """What is known of one endpoint. `opens_in` is in seconds, None while a probe decides."""

    url: str
    state: State
    in_flight: int
    failures: int
    busy: int
    opens_in: float | None
    last_error: str | None


@dataclass(slots=True, kw_only=True)
class _Endpoint:
    known: bool = False
    heard_at: float = -math.inf
    not_before: float = -math.inf
    down_until: float = -math.inf
    failures: int = 0
    busy: int = 0
    trips: int = 0
    judged_at: float = -math.inf
    lease: Admission | None = None
    probe_at: float = -math.inf
    probe_decides: bool = False
    announced: bool = False
    """Whether its being down was reported, and its return not yet."""
    in_flight: int = 0
    last_error: str | None = None


class EndpointPool:
    """All endpoints of one Serve application, or of several that serve the same."""

    def __init__(self, urls: tuple[str, ...], *, clock: Clock, rest_after: int) -> None:
        self._endpoints = {url: _Endpoint() for url in urls}
        self._clock = clock
        self._rest_after = max(1, rest_after)
        self._turn = 0

    def order(self) -> tuple[str, ...]:
        """All endpoints, each call starting with the next one."""
        urls = tuple(self._endpoints)
        start = self._turn % len(urls)
        self._turn += 1
        return urls[start:] + urls[:start]

    def opens_at(self, url: str) -> float:
        """When a request may go there: a past moment for now, `NEVER` while it is skipped."""
        endpoint = self._endpoints[url]
        if self._is_up(endpoint):
            return endpoint.not_before
        opens = max(endpoint.not_before, endpoint.down_until)
        if endpoint.lease is not None or opens > self._clock.monotonic():
            return NEVER
        return opens

    def admit(self, url: str) -> Admission | None:
        """Take leave to send one request there; None if it may not go there now."""
        now = self._clock.monotonic()
        if self.opens_at(url) > now:
            return None
        endpoint = self._endpoints[url]
        admission = Admission(url=url, at=now, probe=not self._is_up(endpoint))
        if admission.probe:
            endpoint.lease = admission
        endpoint.in_flight += 1
        return admission

    def release(self, admission: Admission) -> None:
        """The request is over, whatever came of it. To be called exactly once."""
        endpoint = self._endpoints[admission.url]
        endpoint.in_flight -= 1
        self._end_lease(endpoint, admission)

    def committed(self, admission: Admission) -> bool:
        """Its first token came: open to everybody. Returns whether that is news."""
        endpoint = self._endpoints[admission.url]
        endpoint.known = True
        endpoint.heard_at = self._clock.monotonic()
        endpoint.failures = min(endpoint.failures, BLAME_LIMIT - 1)
        endpoint.busy = 0
        endpoint.down_until = -math.inf
        self._end_lease(endpoint, admission)
        return _announce(endpoint, down=False)

    def completed(self, admission: Admission) -> None:
        """Its answer came to its end: old failures are forgiven."""
        endpoint = self._endpoints[admission.url]
        endpoint.heard_at = self._clock.monotonic()
        endpoint.failures = endpoint.trips = 0
        endpoint.last_error = None

    def busy(self, admission: Admission, *, wait: float) -> float:
        """It asked for patience; returns the seconds for which it is now left alone."""
        endpoint = self._endpoints[admission.url]
        now = self._clock.monotonic()
        endpoint.known = True
        endpoint.heard_at = now
        endpoint.not_before = max(endpoint.not_before, now + wait)
        if self._is_news(endpoint, admission):
            endpoint.failures = min(endpoint.failures, BLAME_LIMIT - 1)  # busy, but there
            endpoint.busy += 1
            if endpoint.busy >= self._rest_after:
                rest = _pause(endpoint.busy - self._rest_after)
                endpoint.not_before = max(endpoint.not_before, now + rest)
        return endpoint.not_before - now

    def failed(self, admission: Admission, *, error: str, blame: Blame) -> bool:
        """It failed. Returns whether it is news that it is down."""
        endpoint = self._endpoints[admission.url]
        endpoint.known = True
        endpoint.last_error = error
        if not self._is_news(endpoint, admission):
            return False
        endpoint.busy = 0
        endpoint.failures = max(endpoint.failures + 1, 0 if blame == "mark" else BLAME_LIMIT)
        if endpoint.failures < BLAME_LIMIT:
            return False
        now = self._clock.monotonic()
        endpoint.down_until = now + _pause(endpoint.trips)
        endpoint.trips += 1
        endpoint.probe_at = now + FIRST_PROBE
        endpoint.probe_decides = blame == "gone"
        return _announce(endpoint, down=True)

    def due_probes(self) -> tuple[str, ...]:
        """Endpoints a background probe should visit now: down ones, and those never heard of."""
        now = self._clock.monotonic()
        due = []
        for url, endpoint in self._endpoints.items():
            wanted = not endpoint.known or endpoint.failures >= BLAME_LIMIT
            if wanted and endpoint.probe_at <= now:
                endpoint.probe_at = now + PROBE_EVERY
                due.append(url)
        return tuple(due)

    def unheard(self) -> tuple[str, ...]:
        """Endpoints of which nobody knows whether they are there now: new ones, and idle ones."""
        before = self._clock.monotonic() - FRESH_FOR
        return tuple(
            url
            for url, endpoint in self._endpoints.items()
            if not endpoint.known
            or (self._is_up(endpoint) and not endpoint.in_flight and endpoint.heard_at < before)
        )

    def probed(self, url: str, found: Probe) -> bool:
        """The outcome of a background probe. Returns whether that is news.

        An endpoint never heard of is only taken for down if nothing is there; that it is not
        ready yet, it may tell the first request itself, with its `Retry-After`.
        """
        endpoint = self._endpoints[url]
        if endpoint.in_flight and self._is_up(endpoint):
            return False  # a request that goes there now knows better
        was_down = endpoint.failures >= BLAME_LIMIT
        if found == "ready":
            endpoint.known = True
            endpoint.heard_at = self._clock.monotonic()
            if was_down and endpoint.probe_decides:
                endpoint.down_until = -math.inf
                return _announce(endpoint, down=False)
            return False
        if found == "not_ready" and not was_down:
            return False
        endpoint.known = True
        endpoint.failures = max(endpoint.failures, BLAME_LIMIT)
        endpoint.down_until = max(endpoint.down_until, self._clock.monotonic() + PROBE_GRACE)
        endpoint.probe_decides = True
        return _announce(endpoint, down=True)

    def soonest(self) -> float | None:
        """Seconds until some endpoint may be asked again; None if nobody said."""
        now = self._clock.monotonic()
        waits = [e.not_before - now for e in self._endpoints.values() if e.not_before > now]
        return min(waits, default=None)

    def statuses(self) -> tuple[EndpointStatus, ...]:
        """What is known now, in configured order."""
        return tuple(self._status(url, endpoint) for url, endpoint in self._endpoints.items())

    def _status(self, url: str, endpoint: _Endpoint) -> EndpointStatus:
        opens = max(endpoint.not_before, endpoint.down_until) - self._clock.monotonic()
        return EndpointStatus(
            url=url,
            state=self._state(endpoint),
            in_flight=endpoint.in_flight,
            failures=endpoint.failures,
            busy=endpoint.busy,
            opens_in=None if endpoint.lease is not None else max(0.0, opens),
            last_error=endpoint.last_error,
        )

    def _state(self, endpoint: _Endpoint) -> State:
        if not endpoint.known:
            return "unknown"
        if endpoint.lease is not None:
            return "probing"
        if endpoint.failures >= BLAME_LIMIT:
            return "down"
        return "up" if self._is_up(endpoint) else "resting"

    def _is_up(self, endpoint: _Endpoint) -> bool:
        return endpoint.failures < BLAME_LIMIT and endpoint.busy < self._rest_after

    def _is_news(self, endpoint: _Endpoint, admission: Admission) -> bool:
        if admission.at < endpoint.judged_at:
            return False
        endpoint.judged_at = self._clock.monotonic()
        return True

    def _end_lease(self, endpoint: _Endpoint, admission: Admission) -> None:
        if endpoint.lease is admission:
            endpoint.lease = None


def _announce(endpoint: _Endpoint, *, down: bool) -> bool:
    news = endpoint.announced is not down
    endpoint.announced = down
    return news


def _pause(nth: int) -> float:
    return min(LONGEST_PAUSE, FIRST_PAUSE * float(2 ** min(nth, 10)))
