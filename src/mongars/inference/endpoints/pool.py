"""What we know of each Ray endpoint, whether a request may go there now, and which one is best.

Three things keep a request away: the breaker (it fails), `not_before` (it asked for patience; a
busy answer may only move it later, so `Retry-After` is never undercut) and an operator (`drain`).
Only `not_before` is worth waiting for. An endpoint that has as many requests as its concurrency
limit allows is taken only when every other one has, too; how many go out at all is the `RequestQueue`'s.

An endpoint that was busy `rest_after` times in a row is skipped, not waited for, until one request at a
time finds out that it has room again. After a wait longer than `MAX_REST_SECONDS`, one request finds out too.
While `not_before` lies ahead, or until that request has its answer, the state shown is `resting`.

Among those that are left the cheaper of two random ones is taken: first-token time times requests
under way (power of two choices on peak EWMA). A conversation goes where its prompt is in the cache,
by rendezvous hashing, unless that endpoint has more than its share or is much slower.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mongars.inference.endpoints.aimd_limit import ConcurrencyLimit
from mongars.inference.endpoints.breaker import NEVER, Breaker
from mongars.inference.endpoints.latency import PeakEwma

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mongars.core.clock import Clock

INITIAL_REST_SECONDS = 1.0
MAX_REST_SECONDS = 10.0
FIRST_PROBE_SECONDS = 0.5
PROBE_INTERVAL_SECONDS = 2.0
STARTING_PROBE_INTERVAL_SECONDS = 0.5
"""For an endpoint that is there and not ready yet: it will be, soon."""
FRESH_SECONDS = 5.0
"""For so long an endpoint that answered is believed to be there without asking again."""
FAILURE_PENALTY = 2.0
"""Seconds added to the latency of a failure, so that failing fast does not look like being fast."""
FAILURE_FACTOR = 20.0
"""The penalty is at most so many times the fastest endpoint's latency: what is forgotten with time
would keep a failure away from a fast pool for a minute, and from a slow one for a few seconds."""
UNTRIED_COST = 1e6
"""Of an endpoint that has requests and no history: one request at a time, until the first answers."""
LOAD_BOUND = 1.25
"""A conversation leaves its endpoint when that has this much more than the average load."""
SLOWER_BOUND = 2.0
"""It also leaves it when another endpoint is so many times faster."""

FailureKind = Literal["error", "timeout", "stalled", "unreachable"]
"""A `mark` counts; the others take the endpoint for down at once: it did not begin an answer, went
silent in the middle of one, or is not there."""

Probe = Literal["ready", "there", "not_ready", "unreachable"]
"""`there`: something answers that has no readiness route."""
State = Literal["unknown", "up", "warming", "resting", "down", "untested", "probing", "drained"]
"""`untested`: its down time is over, or a probe found it back, and no request has been there yet."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EndpointLease:
    """Leave to send one request to an endpoint; to be handed back with `release`."""

    url: str
    at: float
    probe: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointStatus:
    """What is known of one endpoint; times in seconds.

    `opens_in` is None while a test decides; `first_token_seconds` is the average that choices are
    made by, None before the first answer.
    """

    id: str
    url: str
    state: State
    in_flight: int
    limit: int
    failures: int
    busy: int
    opens_in: float | None
    first_token_seconds: float | None
    last_error: str | None
    adapter_version: str | None


class _Endpoint:
    """One endpoint: its policies, and what was seen of it."""

    def __init__(self, *, random: Callable[[], float], limit: int) -> None:
        self.breaker = Breaker(random=random)
        self.latency = PeakEwma()
        self.limit = ConcurrencyLimit(limit)
        self.known = False
        self.drained = False
        self.heard_at = -math.inf
        self.not_before = -math.inf
        self.busy = 0
        self.busy_at = -math.inf
        self.rest_lease: EndpointLease | None = None
        self.long_wait = False
        """Whether its last wait was so long that one request tests it first."""
        self.probe_at = -math.inf
        self.probe_decides = False
        self.announced = False
        """Whether its being down was reported, and its return not yet."""
        self.in_flight = 0
        self.spoke_at = -math.inf
        """When it last began or completed an answer."""
        self.suspect = False
        """Whether it failed since it last gave a word."""
        self.since = -math.inf
        """What was sent before says nothing about it: an operator said so."""
        self.last_error: str | None = None
        self.adapter_version: str | None = None


class EndpointPool:
    """All endpoints of one Serve application, or of several that serve the same."""

    def __init__(
        self,
        urls: tuple[str, ...],
        *,
        clock: Clock,
        rest_after: int,
        random: Callable[[], float],
        maximum: int = 0,
        sole_provider: bool = False,
    ) -> None:
        """`maximum` requests may be under way in all, as far as is known before the first answer.

        `sole_provider`: nobody else can answer, so that a pool that is mostly down is tried anyway.
        """
        self._first_limit = -(-maximum // max(1, len(urls)))
        self._endpoints = {url: _Endpoint(random=random, limit=self._first_limit) for url in urls}
        self._ids = {f"ray-{number}": url for number, url in enumerate(urls, start=1)}
        self._clock = clock
        self._random = random
        self._rest_after = max(1, rest_after)
        self._sole_provider = sole_provider

    @property
    def urls(self) -> tuple[str, ...]:
        """All endpoints, in configured order."""
        return tuple(self._endpoints)

    def choose(self, urls: Sequence[str], *, session_id: str | None = None) -> str:
        """The best of these, at least one, for the next request."""
        roomy = [url for url in urls if self._has_room(self._endpoints[url])] or list(urls)
        home = None if session_id is None else self._home(roomy, session_id)
        if home is not None:
            return home
        first = self._draw(len(roomy))
        second = (first + 1 + self._draw(len(roomy) - 1)) % len(roomy) if roomy[1:] else first
        pair = sorted((first, second))  # of two that are new the one configured first
        return min((roomy[number] for number in pair), key=self._cost)

    def opens_at(self, url: str) -> float:
        """When a request may go there: a past moment for now, `NEVER` while it is skipped."""
        endpoint, now = self._endpoints[url], self._clock.monotonic()
        if endpoint.drained:
            return NEVER
        if self._panics(now):
            return endpoint.not_before
        opens = endpoint.breaker.opens_at(now)
        under_test = endpoint.rest_lease is not None
        skipped = self._rests(endpoint) and endpoint.not_before > now
        if opens == NEVER or under_test or skipped:
            return NEVER
        return max(opens, endpoint.not_before)

    def has_room(self, url: str) -> bool:
        """Whether it has fewer requests than its limit."""
        return self._has_room(self._endpoints[url])

    @property
    def capacity(self) -> int | None:
        """Requests that may be under way in all; None while none can be sent anyway.

        An endpoint that is up counts with its limit, one that may be tested with one request.
        """
        now = self._clock.monotonic()
        open_now = {url for url in self._endpoints if self.opens_at(url) <= now}
        if not open_now:
            return None
        total = 0
        for url, endpoint in self._endpoints.items():
            if url not in open_now:
                total += endpoint.in_flight
            elif self._is_up(endpoint):
                total += endpoint.limit.value
            else:
                total += endpoint.in_flight + 1
        return total

    def acquire(self, url: str) -> EndpointLease | None:
        """Take leave to send one request there; None if it may not go there now."""
        now = self._clock.monotonic()
        if self.opens_at(url) > now:
            return None
        endpoint = self._endpoints[url]
        alone = self._is_tested_alone(endpoint)
        test = endpoint.breaker.state == "open" or alone
        lease = EndpointLease(url=url, at=now, probe=test)
        if endpoint.breaker.state == "open":
            endpoint.breaker.leave(lease, now)
        if alone:
            endpoint.rest_lease = lease
        endpoint.in_flight += 1
        return lease

    def release(self, lease: EndpointLease) -> None:
        """The request is over, whatever came of it. To be called exactly once."""
        endpoint = self._endpoints[lease.url]
        endpoint.in_flight -= 1
        endpoint.breaker.released(lease)
        _end_rest_lease(endpoint, lease)

    def committed(self, lease: EndpointLease, *, adapter_version: str | None = None) -> bool:
        """Its first token came: open to everybody. Returns whether that is new."""
        endpoint, now = self._endpoints[lease.url], self._clock.monotonic()
        endpoint.known = True
        endpoint.heard_at = endpoint.spoke_at = now
        endpoint.busy = 0
        endpoint.long_wait = endpoint.suspect = False
        endpoint.adapter_version = adapter_version or endpoint.adapter_version
        if lease.probe:
            endpoint.latency = PeakEwma()  # what it was before it failed says nothing any more
        endpoint.latency.observe(now - lease.at, now)
        endpoint.limit.succeeded(endpoint.in_flight)
        endpoint.breaker.began(lease, now)
        _end_rest_lease(endpoint, lease)
        return endpoint.breaker.state == "closed" and _announce(endpoint, down=False)

    def overtaken(self, lease: EndpointLease) -> None:
        """Another endpoint began first and this one is given up: slow so far, and no failure."""
        now = self._clock.monotonic()
        self._endpoints[lease.url].latency.at_least(now - lease.at, now)

    def completed(self, lease: EndpointLease) -> None:
        """Its answer came to its end: old failures are forgiven."""
        endpoint, now = self._endpoints[lease.url], self._clock.monotonic()
        endpoint.heard_at = endpoint.spoke_at = now
        endpoint.breaker.finished(now)
        endpoint.last_error = None

    def busy(self, lease: EndpointLease, *, wait: float) -> float:
        """It asked for patience; returns the seconds for which it is now left alone."""
        endpoint, now = self._endpoints[lease.url], self._clock.monotonic()
        if lease.at < endpoint.since:
            return 0.0
        endpoint.known = True
        endpoint.heard_at = now
        endpoint.not_before = max(endpoint.not_before, now + wait)
        endpoint.long_wait = endpoint.long_wait or wait > MAX_REST_SECONDS
        endpoint.latency.observe(now - lease.at + self._penalty(), now)
        if lease.at >= endpoint.busy_at:
            endpoint.busy_at = now
            endpoint.limit.refused()
            endpoint.breaker.busy()
            endpoint.busy += 1
            if endpoint.busy >= self._rest_after:
                rest = INITIAL_REST_SECONDS * 2.0 ** min(endpoint.busy - self._rest_after, 10)
                endpoint.not_before = max(endpoint.not_before, now + min(MAX_REST_SECONDS, rest))
        return endpoint.not_before - now

    def failed(self, lease: EndpointLease, *, error: str, kind: FailureKind) -> bool:
        """It failed. Returns whether it is new that it is down."""
        endpoint, now = self._endpoints[lease.url], self._clock.monotonic()
        if lease.at < endpoint.since:
            return False
        endpoint.known = endpoint.suspect = True
        endpoint.last_error = error
        endpoint.busy = 0
        endpoint.long_wait = False
        endpoint.probe_at = min(endpoint.probe_at, now)
        endpoint.latency.observe(now - lease.at + self._penalty(), now)
        # While it speaks to others it is not silent, only too busy to begin this answer in time.
        silent = kind == "timeout" and endpoint.spoke_at <= lease.at
        if kind == "timeout" and endpoint.breaker.is_news(lease.at):
            endpoint.limit.refused()
        decisive = silent or kind in {"stalled", "unreachable"}
        if not endpoint.breaker.failed(lease, lease.at, now, decisive=decisive):
            return False
        endpoint.probe_at = now + FIRST_PROBE_SECONDS
        endpoint.probe_decides = kind == "unreachable"
        return _announce(endpoint, down=True)

    def drain(self, endpoint_id: str) -> bool:
        """Send nothing there any more, until `reset`; False if there is no such endpoint."""
        url = self._ids.get(endpoint_id)
        if url is not None:
            self._endpoints[url].drained = True
        return url is not None

    def reset(self, endpoint_id: str) -> bool:
        """Forget what was seen of it, and let requests go there; False if there is none."""
        url = self._ids.get(endpoint_id)
        if url is not None:
            fresh = _Endpoint(random=self._random, limit=self._first_limit)
            fresh.in_flight = self._endpoints[url].in_flight
            fresh.since = self._clock.monotonic()
            self._endpoints[url] = fresh
        return url is not None

    def due_probes(self) -> tuple[str, ...]:
        """Endpoints a background probe should visit now.

        Those that are down, those that failed lately, and those never heard of.
        """
        now = self._clock.monotonic()
        due = []
        for url, endpoint in self._endpoints.items():
            wanted = not endpoint.known or endpoint.suspect or endpoint.breaker.state != "closed"
            if wanted and endpoint.probe_at <= now:
                endpoint.probe_at = now + PROBE_INTERVAL_SECONDS
                due.append(url)
        return tuple(due)

    def unheard(self) -> tuple[str, ...]:
        """Endpoints of which nothing is known that still holds."""
        before = self._clock.monotonic() - FRESH_SECONDS
        return tuple(
            url
            for url, endpoint in self._endpoints.items()
            if not endpoint.known
            or (self._is_up(endpoint) and not endpoint.in_flight and endpoint.heard_at < before)
        )

    def probed(self, url: str, found: Probe, *, error: str | None = None) -> bool:
        """The outcome of a background probe, and its error. Returns whether that is new.

        An endpoint never heard of is only taken for down if nothing is there; that it is not
        ready yet, it may tell the first request itself, with its `Retry-After`.
        """
        endpoint, now = self._endpoints[url], self._clock.monotonic()
        if endpoint.in_flight and self._is_up(endpoint):
            return False  # a request that goes there now knows better
        was_down = endpoint.breaker.state != "closed"
        endpoint.suspect = False
        endpoint.last_error = error or endpoint.last_error
        if found in {"ready", "there"}:
            endpoint.known = True
            endpoint.last_error = None
            endpoint.heard_at = now
            if was_down and endpoint.probe_decides:
                judge = endpoint.breaker.restored if found == "ready" else endpoint.breaker.vouched
                judge(now)
                endpoint.latency = PeakEwma()  # whoever comes back is not known to be slow
                return _announce(endpoint, down=False)
            return False
        if found == "not_ready" and not was_down:
            return False
        endpoint.known = True
        endpoint.probe_decides = True
        endpoint.breaker.trip(now)
        if found == "not_ready":
            endpoint.probe_at = now + STARTING_PROBE_INTERVAL_SECONDS
        return _announce(endpoint, down=True)

    def soonest(self) -> float | None:
        """Seconds until some endpoint may be asked again; None if nobody said."""
        now = self._clock.monotonic()
        waits = [e.not_before - now for e in self._endpoints.values() if e.not_before > now]
        return min(waits, default=None)

    def statuses(self) -> tuple[EndpointStatus, ...]:
        """What is known now, in configured order."""
        return tuple(self._status(name, url) for name, url in self._ids.items())

    def _status(self, name: str, url: str) -> EndpointStatus:
        endpoint, now = self._endpoints[url], self._clock.monotonic()
        opens = max(endpoint.not_before - now, endpoint.breaker.open_for(now), 0.0)
        state = self._state(endpoint, now)
        return EndpointStatus(
            id=name,
            url=url,
            state=state,
            in_flight=endpoint.in_flight,
            limit=endpoint.limit.value,
            failures=endpoint.breaker.failures,
            busy=endpoint.busy,
            opens_in=None if state in {"probing", "drained"} else opens,
            first_token_seconds=endpoint.latency.at(now) if endpoint.latency.known else None,
            last_error=endpoint.last_error,
            adapter_version=endpoint.adapter_version,
        )

    def _state(self, endpoint: _Endpoint, now: float) -> State:
        if endpoint.drained:
            return "drained"
        if not endpoint.known:
            return "unknown"
        if endpoint.rest_lease is not None or endpoint.breaker.state == "half_open":
            return "probing"
        if endpoint.breaker.state == "open":
            return "down" if endpoint.breaker.opens_at(now) == NEVER else "untested"
        if self._is_tested_alone(endpoint) or endpoint.not_before > now:
            return "resting"
        return "up" if endpoint.breaker.share(now) >= 1 else "warming"

    def _cost(self, url: str) -> float:
        endpoint, now = self._endpoints[url], self._clock.monotonic()
        if not endpoint.latency.known and endpoint.in_flight:
            return UNTRIED_COST * endpoint.in_flight
        cost = endpoint.latency.at(now) * (endpoint.in_flight + 1)
        return cost / endpoint.breaker.share(now)

    def _home(self, urls: Sequence[str], session_id: str) -> str | None:
        """Where a conversation lives, unless it had better go elsewhere this time."""
        home = max(urls, key=lambda url: hashlib.sha256(f"{session_id} {url}".encode()).digest())
        endpoint, now = self._endpoints[home], self._clock.monotonic()
        total = sum(self._endpoints[url].in_flight for url in urls)
        fastest = self._fastest(urls) or 0.0
        crowded = endpoint.in_flight + 1 > math.ceil(LOAD_BOUND * (total + 1) / len(urls))
        slow = endpoint.latency.last > SLOWER_BOUND * fastest
        return None if crowded or slow or endpoint.breaker.share(now) < 1 else home

    def _fastest(self, urls: Iterable[str]) -> float | None:
        """Seconds to the first token of the fastest of these; None while none is known."""
        known = (e.latency.last for url in urls if (e := self._endpoints[url]).latency.known)
        return min(known, default=None)

    def _penalty(self) -> float:
        fastest = self._fastest(self._endpoints)
        if fastest is None:
            return FAILURE_PENALTY
        return min(FAILURE_PENALTY, FAILURE_FACTOR * fastest)

    def _has_room(self, endpoint: _Endpoint) -> bool:
        return endpoint.in_flight < endpoint.limit.value

    def _rests(self, endpoint: _Endpoint) -> bool:
        return endpoint.busy >= self._rest_after

    def _is_tested_alone(self, endpoint: _Endpoint) -> bool:
        return endpoint.long_wait or self._rests(endpoint)

    def _is_up(self, endpoint: _Endpoint) -> bool:
        return endpoint.breaker.state == "closed" and not self._is_tested_alone(endpoint)

    def _panics(self, now: float) -> bool:
        """Most are down and nobody else can answer: then any of them is worth a try."""
        if not self._sole_provider:
            return False
        down = sum(e.breaker.opens_at(now) == NEVER for e in self._endpoints.values())
        return down > len(self._endpoints) / 2

    def _draw(self, count: int) -> int:
        return int(self._random() * count) % count


def _end_rest_lease(endpoint: _Endpoint, lease: EndpointLease) -> None:
    if endpoint.rest_lease is lease:
        endpoint.rest_lease = None


def _announce(endpoint: _Endpoint, *, down: bool) -> bool:
    progress = endpoint.announced is not down
    endpoint.announced = down
    return progress
