from __future__ import annotations

import pytest

from mongars.inference.config import InferenceConfig
from mongars.inference.endpoints.pool import EndpointPool
from mongars.inference.endpoints.rotation import PlannedAttempt, Rotation
from mongars.testing.clock import ManualClock

A, B, C = "http://a/generate", "http://b/generate", "http://c/generate"


class Way:
    """A request's way, with the pool told what a real attempt would tell it."""

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
        self.pool.health.record_busy(lease, wait=wait)
        self.pool.leases.release(lease)
        self.rotation.record_failure(planned.url, "busy")


async def test_other_endpoints_come_before_any_wait() -> None:
    """Three endpoints, all busy: each is tried once before anybody waits."""
    way = Way(A, B, C)
    for url in (A, B, C):
        planned = await way.planned()
        assert planned == PlannedAttempt(url=url, at=0.0)
        way.busy(planned, wait=1.0)
    assert way.clock.monotonic() == 0.0


async def test_the_second_cycle_begins_with_whoever_opens_first() -> None:
    """After a full round, the wait is for the shortest `Retry-After`."""
    way = Way(A, B)
    way.busy(await way.planned(), wait=3.0)
    way.busy(await way.planned(), wait=2.0)
    planned = await way.planned()
    assert planned is not None
    assert planned.url == B
    assert 2.0 <= planned.at <= 2.4


@pytest.mark.parametrize(("urls", "sent"), [((A,), 2), ((A, B), 4), ((A, B, C), 4)])
async def test_attempts_are_bounded(urls: tuple[str, ...], sent: int) -> None:
    """Endpoints times cycles, and never more than four."""
    way = Way(*urls)
    count = 0
    while (planned := await way.planned()) is not None:
        way.rotation.record_failure(planned.url, "error")
        count += 1
    assert count == sent


async def test_a_wait_that_is_too_long_is_not_begun() -> None:
    """`Retry-After` beyond the time left: give up now, not then."""
    way = Way(A)
    way.busy(await way.planned(), wait=30.0)
    assert await way.planned(not_after=10.0) is None
    assert way.clock.monotonic() == 0.0


@pytest.mark.parametrize("failure_class", ["timeout", "unreachable", "invalid"])
async def test_hopeless_endpoints_are_not_asked_twice(failure_class: str) -> None:
    """Silence, refusal and nonsense do not get better by asking again."""
    way = Way(A)
    planned = await way.planned()
    assert planned is not None
    way.rotation.record_failure(planned.url, failure_class)
    assert await way.planned() is None


async def test_a_server_error_may_be_tried_again_after_a_pause() -> None:
    """One endpoint, one hiccup: the same endpoint gets a second chance."""
    way = Way(A)
    planned = await way.planned()
    assert planned is not None
    way.rotation.record_failure(planned.url, "error")
    again = await way.planned()
    assert again is not None
    assert again.url == A
    assert 0 < again.at <= 0.6


async def test_a_down_endpoint_is_neither_tried_nor_waited_for() -> None:
    """With one of two endpoints down, requests go straight to the other."""
    way = Way(A, B)
    lease = way.pool.leases.acquire(A)
    assert lease is not None
    way.pool.health.record_failure(lease, error="endpoint_unreachable", kind="unreachable")
    planned = await way.planned()
    assert planned == PlannedAttempt(url=B, at=0.0)


async def test_a_second_attempt_takes_an_endpoint_out_of_the_cycle() -> None:
    """It goes to another endpoint with room, counts as an attempt, and is not repeated there."""
    way = Way(A, B, C, cycles=1)
    first = await way.planned()
    second = way.rotation.second_endpoint()
    assert first is not None
    assert second not in {None, first.url}
    way.rotation.record_hedge(second)
    third = await way.planned()
    assert third is not None
    assert {first.url, second, third.url} == {A, B, C}
    assert way.rotation.second_endpoint() is None
    assert await way.planned() is None


async def test_no_second_attempt_where_there_is_no_room() -> None:
    """Full, busy and drained endpoints are not bothered for somebody's convenience."""
    way = Way(A, B, C)
    assert await way.planned() == PlannedAttempt(url=A, at=0.0)
    leases = [way.pool.leases.acquire(B) for _ in range(8)]
    assert None not in leases
    way.pool.control.drain("ray-3")
    assert way.rotation.second_endpoint() is None
    way.pool.control.reset("ray-3")
    assert way.rotation.second_endpoint() == C
