from __future__ import annotations

import pytest

from mongars.inference.config import InferenceConfig
from mongars.inference.endpoints import EndpointPool
from mongars.inference.rotation import Rotation, Step
from mongars.testing.manual_clock import ManualClock

A, B, C = "http://a/generate", "http://b/generate", "http://c/generate"


class Way:
    """A request's way, with the pool told what a real attempt would tell it."""

    def __init__(self, *urls: str, cycles: int = 2) -> None:
        self.clock = ManualClock()
        config = InferenceConfig(endpoints=urls, use_ray=True, max_scale_cycles=cycles)
        self.pool = EndpointPool(urls, clock=self.clock, rest_after=cycles, random=lambda: 0.0)
        self.rotation = Rotation(self.pool, config, clock=self.clock, random=lambda: 0.5)

    async def step(self, *, not_after: float = 60.0) -> Step | None:
        step = self.rotation.next(not_after=not_after)
        if step is not None:
            self.rotation.sent()
            await self.clock.advance(step.at - self.clock.monotonic())
        return step

    def busy(self, step: Step | None, *, wait: float) -> None:
        assert step is not None
        admission = self.pool.admit(step.url)
        assert admission is not None
        self.pool.busy(admission, wait=wait)
        self.pool.release(admission)
        self.rotation.failed(step.url, "busy")


async def test_other_endpoints_come_before_any_wait() -> None:
    """Three endpoints, all busy: each is tried once before anybody waits."""
    way = Way(A, B, C)
    for url in (A, B, C):
        step = await way.step()
        assert step == Step(url=url, at=0.0)
        way.busy(step, wait=1.0)
    assert way.clock.monotonic() == 0.0


async def test_the_second_cycle_begins_with_whoever_opens_first() -> None:
    """After a full round, the wait is for the shortest `Retry-After`."""
    way = Way(A, B)
    way.busy(await way.step(), wait=3.0)
    way.busy(await way.step(), wait=2.0)
    step = await way.step()
    assert step is not None
    assert step.url == B
    assert 2.0 <= step.at <= 2.4


@pytest.mark.parametrize(("urls", "sent"), [((A,), 2), ((A, B), 4), ((A, B, C), 4)])
async def test_attempts_are_bounded(urls: tuple[str, ...], sent: int) -> None:
    """Endpoints times cycles, and never more than four."""
    way = Way(*urls)
    count = 0
    while (step := await way.step()) is not None:
        way.rotation.failed(step.url, "broken")
        count += 1
    assert count == sent


async def test_a_wait_that_is_too_long_is_not_begun() -> None:
    """`Retry-After` beyond the time left: give up now, not then."""
    way = Way(A)
    way.busy(await way.step(), wait=30.0)
    assert await way.step(not_after=10.0) is None
    assert way.clock.monotonic() == 0.0


@pytest.mark.parametrize("verdict", ["silent", "gone", "unusable"])
async def test_hopeless_endpoints_are_not_asked_twice(verdict: str) -> None:
    """Silence, refusal and nonsense do not get better by asking again."""
    way = Way(A)
    step = await way.step()
    assert step is not None
    way.rotation.failed(step.url, verdict)
    assert await way.step() is None


async def test_a_server_error_may_be_tried_again_after_a_pause() -> None:
    """One endpoint, one hiccup: the same endpoint gets a second chance."""
    way = Way(A)
    step = await way.step()
    assert step is not None
    way.rotation.failed(step.url, "broken")
    again = await way.step()
    assert again is not None
    assert again.url == A
    assert 0 < again.at <= 0.6


async def test_a_down_endpoint_is_neither_tried_nor_waited_for() -> None:
    """With one of two endpoints down, requests go straight to the other."""
    way = Way(A, B)
    admission = way.pool.admit(A)
    assert admission is not None
    way.pool.failed(admission, error="endpoint_unreachable", blame="gone")
    step = await way.step()
    assert step == Step(url=B, at=0.0)


async def test_a_second_attempt_takes_an_endpoint_out_of_the_cycle() -> None:
    """It goes to another endpoint with room, counts as an attempt, and is not repeated there."""
    way = Way(A, B, C, cycles=1)
    first = await way.step()
    second = way.rotation.beside()
    assert first is not None
    assert second not in {None, first.url}
    way.rotation.hedged(second)
    third = await way.step()
    assert third is not None
    assert {first.url, second, third.url} == {A, B, C}
    assert way.rotation.beside() is None
    assert await way.step() is None


async def test_no_second_attempt_where_there_is_no_room() -> None:
    """Full, busy and drained endpoints are not bothered for somebody's convenience."""
    way = Way(A, B, C)
    assert await way.step() == Step(url=A, at=0.0)
    admissions = [way.pool.admit(B) for _ in range(8)]
    assert None not in admissions
    way.pool.drain("ray-3")
    assert way.rotation.beside() is None
    way.pool.reset("ray-3")
    assert way.rotation.beside() == C
