from __future__ import annotations

import pytest

from mongars.inference.config import InferenceConfig
from mongars.inference.endpoints.pool import EndpointPool
from mongars.inference.endpoints.rotation import PlannedAttempt, Rotation
from mongars.testing.manual_clock import ManualClock

A, B, C = "http://a/generate", "http://b/generate", "http://c/generate"


class PlannedRequest:
    """The attempts of one request, whose outcomes are recorded in the pool as those of a real request."""

    def __init__(self, *urls: str, cycles: int = 2) -> None:
        self.clock = ManualClock()
        config = InferenceConfig(endpoints=urls, use_ray=True, max_scale_cycles=cycles)
        self.pool = EndpointPool(urls, clock=self.clock, rest_after=cycles, random=lambda: 0.0)
        self.rotation = Rotation(self.pool.selection, config, clock=self.clock, random=lambda: 0.5)

    async def planned(self, *, not_after: float = 60.0) -> PlannedAttempt | None:
        planned = self.rotation.next(not_after=not_after)
        if planned is not None:
            self.rotation.record_sent()
            await self.clock.advance(planned.at - self.clock.monotonic())
        return planned

    def busy(self, planned: PlannedAttempt | None, *, wait: float) -> None:
        assert planned is not None
        lease = self.pool.leases.acquire(planned.url)
        assert lease is not None
        self.pool.outcomes.record_busy(lease, wait=wait)
        self.pool.leases.release(lease)
        self.rotation.record_failure(planned.url, "busy")


async def test_other_endpoints_come_before_any_wait() -> None:
    """With three busy endpoints, each is tried once before the request waits."""
    request = PlannedRequest(A, B, C)
    for url in (A, B, C):
        planned = await request.planned()
        assert planned == PlannedAttempt(url=url, at=0.0)
        request.busy(planned, wait=1.0)
    assert request.clock.monotonic() == 0.0


async def test_the_second_cycle_starts_with_the_endpoint_available_first() -> None:
    """After every endpoint was tried, the next attempt is at the endpoint with the shortest `Retry-After`."""
    request = PlannedRequest(A, B)
    request.busy(await request.planned(), wait=3.0)
    request.busy(await request.planned(), wait=2.0)
    planned = await request.planned()
    assert planned is not None
    assert planned.url == B
    assert 2.0 <= planned.at <= 2.4


@pytest.mark.parametrize(("urls", "sent"), [((A,), 2), ((A, B), 4), ((A, B, C), 4)])
async def test_attempts_are_bounded(urls: tuple[str, ...], sent: int) -> None:
    """A request has at most (endpoints x cycles) attempts, and never more than four."""
    request = PlannedRequest(*urls)
    count = 0
    while (planned := await request.planned()) is not None:
        request.rotation.record_failure(planned.url, "error")
        count += 1
    assert count == sent


async def test_a_wait_that_is_too_long_is_not_started() -> None:
    """If `Retry-After` exceeds the time left, the request fails at once without waiting."""
    request = PlannedRequest(A)
    request.busy(await request.planned(), wait=30.0)
    assert await request.planned(not_after=10.0) is None
    assert request.clock.monotonic() == 0.0


@pytest.mark.parametrize("failure_class", ["timeout", "unreachable", "invalid"])
async def test_endpoints_with_lasting_failures_are_not_tried_twice(failure_class: str) -> None:
    """After a timeout, a refused connection or an invalid answer, the endpoint is not tried again."""
    request = PlannedRequest(A)
    planned = await request.planned()
    assert planned is not None
    request.rotation.record_failure(planned.url, failure_class)
    assert await request.planned() is None


async def test_a_server_error_may_be_tried_again_after_a_pause() -> None:
    """After a server error the only endpoint is tried again after at most 0.6 s."""
    request = PlannedRequest(A)
    planned = await request.planned()
    assert planned is not None
    request.rotation.record_failure(planned.url, "error")
    again = await request.planned()
    assert again is not None
    assert again.url == A
    assert 0 < again.at <= 0.6


async def test_a_down_endpoint_is_neither_tried_nor_waited_for() -> None:
    """With one of two endpoints down, requests go to the other without a wait."""
    request = PlannedRequest(A, B)
    lease = request.pool.leases.acquire(A)
    assert lease is not None
    request.pool.outcomes.record_failure(lease, error="endpoint_unreachable", kind="unreachable")
    planned = await request.planned()
    assert planned == PlannedAttempt(url=B, at=0.0)


async def test_a_second_attempt_takes_an_endpoint_out_of_the_cycle() -> None:
    """A hedge goes to an endpoint not tried yet, counts as an attempt, and is not repeated at that endpoint."""
    request = PlannedRequest(A, B, C, cycles=1)
    first = await request.planned()
    second = request.rotation.second_endpoint()
    assert first is not None
    assert second not in {None, first.url}
    request.rotation.record_hedge(second)
    third = await request.planned()
    assert third is not None
    assert {first.url, second, third.url} == {A, B, C}
    assert request.rotation.second_endpoint() is None
    assert await request.planned() is None


async def test_no_second_attempt_where_there_is_no_room() -> None:
    """No hedge is sent to an endpoint that is full or drained."""
    request = PlannedRequest(A, B, C)
    assert await request.planned() == PlannedAttempt(url=A, at=0.0)
    leases = [request.pool.leases.acquire(B) for _ in range(8)]
    assert None not in leases
    request.pool.control.drain("ray-3")
    assert request.rotation.second_endpoint() is None
    request.pool.control.reset("ray-3")
    assert request.rotation.second_endpoint() == C
