"""Hedging over real sockets: one request at two endpoints, of which one answers and the other is cancelled."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from ray_harness import RayHarness, ray_harness

from mongars.core.clock import SystemClock
from mongars.core.deadline import Deadline
from mongars.core.errors import InvalidRequest
from mongars.core.generation import Chunk, Origin
from mongars.inference.config import InferenceConfig
from mongars.inference.endpoints.pool import EndpointPool
from mongars.inference.endpoints.rotation import PlannedAttempt, Rotation
from mongars.inference.events import AttemptFailed, Hedged
from mongars.inference.http.http_pool import HttpPool
from mongars.inference.provider import Attempts
from mongars.inference.ray.exchange import EndpointResult
from mongars.inference.ray.generation_exchange import GenerationExchange, StartedAnswer
from mongars.inference.ray.hedge import HedgeContext, RayHedge
from mongars.inference.ray.http_exchange import ExchangeContext
from mongars.inference.request_queue import RequestQueue
from mongars.inference.retry.budget import RetryBudget
from mongars.inference.retry.hedging import MIN_SAMPLES, Hedging
from mongars.inference.streams.reader import WholeAnswer
from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import TEXT, Fault, FaultyResponse, Status
from mongars.testing.inference import question
from mongars.testing.manual_clock import ManualClock
from mongars.testing.recording import RecordingObserver
from support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.inference.endpoints.state import EndpointLease
    from mongars.testing.fake_server import Received

AT_ONCE = 0.2
CLOCK = SystemClock()
NEVER = FaultyResponse(first_delay=3600)
FIRST, SECOND = "http://one/generate", "http://two/generate"


@dataclass(slots=True, kw_only=True)
class HedgingSetup:
    """Replicas that share one list of faults: the first request gets the first fault, at any replica."""

    ray: RayHarness
    replicas: tuple[FakeReplica, ...]
    before: int = 0

    def order(self, *faults: Fault) -> None:
        """Set the faults of the next requests, at any replica."""
        self.before = len(self.received)
        self.replicas[0].faults.extend(faults)

    @property
    def received(self) -> list[Received]:
        """All requests received by any replica, in order."""
        everything = [received for replica in self.replicas for received in replica.received]
        return sorted(everything, key=lambda received: received.at)

    @property
    def new(self) -> list[Received]:
        """The requests received since the last call of `order`."""
        return self.received[self.before :]

    @property
    def outcomes(self) -> list[str]:
        return [event.outcome for event in self.ray.observer.of(Hedged)]

    async def in_flight(self) -> int:
        return sum(endpoint.in_flight for endpoint in await self.ray.endpoints())


@asynccontextmanager
async def hedging(
    *, replicas: int = 2, warm: int = MIN_SAMPLES, **settings: object
) -> AsyncIterator[HedgingSetup]:
    """A provider with `replicas` replicas that has answered `warm` requests, by default enough to hedge."""
    fakes = tuple(FakeReplica(name=f"replica-{number}") for number in range(replicas))
    for fake in fakes:
        fake.faults = fakes[0].faults
        await fake.start()
    try:
        urls = [fake.url for fake in fakes]
        async with ray_harness(*urls, **{"hedge": True, "timeout": 30.0, **settings}) as ray:
            for _ in range(warm):
                assert await ray.ask() == TEXT
            ray.attempts.count = 0
            yield HedgingSetup(ray=ray, replicas=fakes)
    finally:
        for fake in fakes:
            await fake.stop()


async def left_at_once(received: Received, since: float) -> None:
    async with asyncio.timeout(AT_ONCE):
        await received.peer_left.wait()
    assert received.left_at is not None
    assert received.left_at - since < AT_ONCE


async def test_a_second_endpoint_answers_for_a_slow_one() -> None:
    """If the second endpoint answers first, the first one's connection is closed at once, without a failure."""
    async with hedging() as setup:
        setup.order(NEVER)
        async with setup.ray.open() as stream:
            began = CLOCK.monotonic()
            slow, fast = setup.new
            await left_at_once(slow, began)
            assert await setup.in_flight() == 1
            assert "".join([chunk.text async for chunk in stream.chunks]) == TEXT
        assert fast.answered
        assert setup.ray.attempts.count == 2
        assert setup.outcomes == ["won"]
        assert not setup.ray.observer.of(AttemptFailed)
        endpoints = await setup.ray.endpoints()
        assert {(e.in_flight, e.failures, e.busy, e.state) for e in endpoints} == {(0, 0, 0, "up")}
        limits = {endpoint.limit for endpoint in endpoints}
        assert len(limits) == 1


async def test_the_first_may_still_win() -> None:
    """If the first endpoint answers first, the second one's connection is closed at once."""
    async with hedging() as setup:
        setup.order(FaultyResponse(first_delay=1.0), NEVER)
        async with setup.ray.open() as stream:
            began = CLOCK.monotonic()
            await left_at_once(setup.new[1], began)
            assert "".join([chunk.text async for chunk in stream.chunks]) == TEXT
        assert setup.outcomes == ["lost"]
        assert setup.new[0].answered
        assert await setup.in_flight() == 0


async def test_the_first_fails_and_the_second_goes_on() -> None:
    """If the first attempt fails, its failure is recorded and the second continues, without a third."""
    async with hedging(replicas=3) as setup:
        setup.order(FaultyResponse(first_delay=0.5, cut_after=0), FaultyResponse(first_delay=1.0))
        assert await setup.ray.ask() == TEXT
        assert len(setup.new) == 2
        assert setup.outcomes == ["won"]
        assert [event.reason for event in setup.ray.observer.of(AttemptFailed)] == [
            "transport_error"
        ]
        assert sorted(e.failures for e in await setup.ray.endpoints()) == [0, 0, 1]


async def test_a_first_attempt_that_fails_early_is_no_case_for_a_hedge() -> None:
    """If the first attempt fails before the hedge delay, the next one is sent at once and is no hedge."""
    async with hedging(warm=0, max_connections=64) as setup:
        setup.order(*[FaultyResponse(first_delay=1.5)] * MIN_SAMPLES)
        async with asyncio.TaskGroup() as group:
            for _ in range(MIN_SAMPLES):
                group.create_task(setup.ray.ask())
        setup.order(Status(code=500))
        assert await setup.ray.ask() == TEXT
        assert len(setup.new) == 2
        assert setup.new[1].at - setup.new[0].at < 1.0
        assert setup.outcomes == []


class HedgeRace:
    """A race between two endpoints whose start times the test controls, on a manual clock."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.begin = {FIRST: asyncio.Event(), SECOND: asyncio.Event()}
        self.opened: list[str] = []
        urls = (FIRST, SECOND)
        config = InferenceConfig(endpoints=urls, use_ray=True)
        self.pool = EndpointPool(urls, clock=self.clock, rest_after=2, random=lambda: 0.5)
        self._rotation = Rotation(self.pool.selection, config, clock=self.clock, random=lambda: 0.5)
        self._exchange = GenerationExchange(
            ExchangeContext(config=config, http=HttpPool(config), clock=self.clock),
            question(),
            deadline=Deadline.after(self.clock, 60),
            attempts=Attempts(self.clock),
        )
        self._context = HedgeContext(
            hedging=Hedging(self.clock, RetryBudget(self.clock)),
            pool=self.pool,
            queue=RequestQueue(lambda: None, clock=self.clock),
            clock=self.clock,
            observer=RecordingObserver(),
        )

    @asynccontextmanager
    async def attempt(self, lease: EndpointLease) -> AsyncIterator[EndpointResult[StartedAnswer]]:
        await self.begin[lease.url].wait()
        self.opened.append(lease.url)
        try:
            answer = StartedAnswer(
                origin=Origin(model="m", engine="e"),
                chunks=WholeAnswer((Chunk(text="Hello"), Chunk(finish_reason="stop"))),
            )
            yield EndpointResult(endpoint=lease.url, result=answer)
        finally:
            self.opened.remove(lease.url)

    async def run(self) -> None:
        """Run the race; check that only the winner's answer is open while read."""
        planned = self._rotation.next(not_after=9)
        assert planned == PlannedAttempt(url=FIRST, at=0.0)
        lease = self.pool.leases.acquire(FIRST)
        assert lease is not None
        hedge = RayHedge(
            self._context, self._exchange, rotation=self._rotation, attempt=self.attempt
        )
        async with hedge.open(lease, delay=1.0) as stream:
            assert self.opened == [stream.endpoint]
        assert self.opened == []


async def test_both_may_start_at_the_same_time() -> None:
    """If both endpoints start at once, one answers and the other is closed before anything is read from it."""
    race = HedgeRace()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(race.run())
        await race.clock.advance(1.0)
        assert [endpoint.in_flight for endpoint in race.pool.control.statuses()] == [1, 1]
        for begin in race.begin.values():
            begin.set()


async def test_a_cancelled_attempt_counts_as_slow() -> None:
    """The time that a cancelled attempt waited counts as its endpoint's latency; the winner is not affected."""
    race = HedgeRace()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(race.run())
        await race.clock.advance(1.5)
        race.begin[SECOND].set()
    times = [endpoint.first_token_seconds for endpoint in race.pool.control.statuses()]
    assert times == [1.5, None]


async def test_the_second_fails_and_the_first_goes_on() -> None:
    async with hedging(replicas=3) as setup:
        setup.order(FaultyResponse(first_delay=1.0), Status(code=500))
        assert await setup.ray.ask() == TEXT
        assert len(setup.new) == 2
        assert setup.outcomes == ["lost"]
        assert len(setup.ray.observer.of(AttemptFailed)) == 1


async def test_both_fail_and_the_rotation_goes_on() -> None:
    async with hedging(replicas=3) as setup:
        setup.order(
            FaultyResponse(first_delay=0.5, cut_after=0),
            FaultyResponse(first_delay=1.0, cut_after=0),
        )
        assert await setup.ray.ask() == TEXT
        assert len(setup.new) == 3
        assert setup.ray.attempts.count == 3
        assert len(setup.ray.observer.of(AttemptFailed)) == 2
        assert await setup.in_flight() == 0


ODD = Status(code=400, error="invalid_request", detail="too odd")


async def test_what_the_second_refuses_the_first_may_answer() -> None:
    """If the second endpoint refuses the request as invalid, the first one may still answer."""
    async with hedging() as setup:
        setup.order(FaultyResponse(first_delay=1.0), ODD)
        assert await setup.ray.ask() == TEXT
        assert await setup.in_flight() == 0


async def test_a_refusal_by_the_second_is_raised_once_the_first_fails() -> None:
    """If the second endpoint refuses the request and the first one fails, the caller gets the refusal."""
    async with hedging() as setup:
        setup.order(FaultyResponse(first_delay=1.0, cut_after=0, cut="abort"), ODD)
        with pytest.raises(InvalidRequest, match="too odd"):
            await setup.ray.ask()
        assert len(setup.new) == 2
        assert await setup.in_flight() == 0


async def test_a_disconnect_closes_both_attempts() -> None:
    """When the client disconnects, both attempts' connections are closed at once."""
    async with hedging() as setup:
        setup.order(NEVER, NEVER)
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(setup.ray.ask())
            await eventually(lambda: len(setup.new) == 2, seconds=5)
            left = CLOCK.monotonic()
            asking.cancel()
        for received in setup.new:
            await left_at_once(received, left)
        assert await setup.in_flight() == 0
        assert setup.outcomes == ["lost"]
        setup.order()
        assert await setup.ray.ask() == TEXT


async def test_a_disconnect_closes_the_answer_of_the_second_attempt() -> None:
    async with hedging() as setup:
        setup.order(NEVER, FaultyResponse(token_delay=0.05))
        async with setup.ray.open() as stream:
            await anext(stream.chunks)
            left = CLOCK.monotonic()
        for received in setup.new:
            await left_at_once(received, left)
        assert await setup.in_flight() == 0


async def test_never_more_than_one_hedge_per_request() -> None:
    """If both attempts of a request are slow, no third endpoint is tried."""
    async with hedging(replicas=3, timeout=1.5) as setup:
        setup.order(*[FaultyResponse(first_delay=1.0)] * 3)
        assert await setup.ray.ask() == TEXT
        assert len(setup.new) == 2


async def test_only_a_part_of_many_late_requests_is_hedged() -> None:
    """If many requests are late at once, at most 5% of the recent requests, plus one, are hedged."""
    async with hedging(max_connections=64) as setup:
        setup.order(*[FaultyResponse(first_delay=0.7)] * 30)
        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(setup.ray.ask()) for _ in range(20)]
        assert {task.result() for task in asking} == {TEXT}
        hedges = len(setup.new) - 20
        assert 1 <= hedges <= 1 + 0.05 * (MIN_SAMPLES + 20)
        assert len(setup.outcomes) == hedges


@pytest.mark.parametrize(
    ("replicas", "settings"),
    [
        (2, {"hedge": False}),
        (2, {"warm": MIN_SAMPLES - 1}),
        (1, {}),
        (2, {"max_connections": 1}),
    ],
    ids=["off", "not enough seen", "one endpoint", "no connection left"],
)
async def test_no_hedge(replicas: int, settings: dict[str, object]) -> None:
    """There is no hedge if hedging is off, with too few samples, one endpoint, or no free connection."""
    async with hedging(replicas=replicas, **settings) as setup:
        setup.order(FaultyResponse(first_delay=0.5))
        assert await setup.ray.ask() == TEXT
        assert len(setup.new) == 1
        assert setup.outcomes == []


async def test_off_by_default() -> None:
    """By default no request is hedged."""
    async with FakeReplica() as first, FakeReplica() as second:
        async with ray_harness(first.url, second.url) as ray:
            for _ in range(MIN_SAMPLES):
                await ray.ask()
            first.always = second.always = FaultyResponse(first_delay=0.3)
            assert await ray.ask() == TEXT
        assert len(first.received) + len(second.received) == MIN_SAMPLES + 1
