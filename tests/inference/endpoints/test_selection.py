"""Which endpoint a request is sent to, with simulated traffic on a manual clock."""

from __future__ import annotations

import heapq
from collections import Counter
from random import Random
from typing import TYPE_CHECKING

import pytest

from mongars.inference.endpoints.aimd_limit import ConcurrencyLimit
from mongars.inference.endpoints.latency import DECAY_SECONDS, PeakEwma
from mongars.inference.endpoints.pool import EndpointPool
from mongars.inference.retry.budget import FLOOR_PER_SECOND, MEMORY_SECONDS, SHARE, RetryBudget
from mongars.testing.manual_clock import ManualClock

if TYPE_CHECKING:
    from mongars.inference.endpoints.state import EndpointLease

A, B, C = "http://a/generate", "http://b/generate", "http://c/generate"
PER_SECOND = 20


class Traffic:
    """A steady rate of requests; `seconds`: each endpoint's time to its first token.

    A whole answer takes ten times as long.
    """

    def __init__(
        self, seconds: dict[str, float], *, refusing: frozenset[str] = frozenset()
    ) -> None:
        random = Random(7)  # noqa: S311 (traffic, not secrets)
        self.clock = ManualClock()
        self.pool = EndpointPool(
            tuple(seconds), clock=self.clock, rest_after=99, random=random.random
        )
        self.seconds = seconds
        self.refusing = refusing
        self._due: list[tuple[float, int, EndpointLease, bool]] = []
        self._number = 0

    async def run(self, seconds: float, *, session: str | None = None) -> Counter[str]:
        """The number of requests sent to each endpoint in so many seconds."""
        went: Counter[str] = Counter()
        for _ in range(round(seconds * PER_SECOND)):
            went[self._send(session)] += 1
            await self.clock.advance(1 / PER_SECOND)
            self._finish_due()
        return went

    def _send(self, session: str | None) -> str:
        now = self.clock.monotonic()
        able = [url for url in self.seconds if self.pool.selection.available_at(url) <= now]
        url = self.pool.selection.choose(able, session_id=session)
        lease = self.pool.leases.acquire(url)
        assert lease is not None
        if url in self.refusing:
            self.pool.outcomes.record_failure(lease, error="inference_failed", kind="error")
            self.pool.leases.release(lease)
        else:
            self._plan(lease, now + self.seconds[url], first=True)
        return url

    def _plan(self, lease: EndpointLease, at: float, *, first: bool) -> None:
        self._number += 1
        heapq.heappush(self._due, (at, self._number, lease, first))

    def _finish_due(self) -> None:
        while self._due and self._due[0][0] <= self.clock.monotonic():
            at, _, lease, first = heapq.heappop(self._due)
            if first:
                self.pool.outcomes.record_first_token(lease)
                self._plan(lease, at + 9 * self.seconds[lease.url], first=False)
            else:
                self.pool.outcomes.record_completed(lease)
                self.pool.leases.release(lease)


async def test_equal_endpoints_share_the_load() -> None:
    went = await Traffic({A: 0.1, B: 0.1, C: 0.1}).run(60)
    assert max(went.values()) < 1.3 * min(went.values())


async def test_an_endpoint_ten_times_slower_is_left_within_seconds() -> None:
    traffic = Traffic({A: 0.1, B: 1.0})
    await traffic.run(5)
    went = await traffic.run(30)
    assert went[B] / went.total() < 0.1
    assert went[B] > 0, "it is tried again now and then"


async def test_an_endpoint_that_became_fast_again_gets_its_share_back() -> None:
    traffic = Traffic({A: 0.1, B: 1.0})
    await traffic.run(10)
    traffic.seconds[B] = 0.1
    await traffic.run(3 * DECAY_SECONDS)
    went = await traffic.run(30)
    assert went[B] / went.total() > 0.35


async def test_failing_fast_does_not_attract_requests() -> None:
    """An endpoint that refuses at once has no requests in progress and still gets under 5% of them."""
    traffic = Traffic({A: 0.1, B: 0.1}, refusing=frozenset({B}))
    went = await traffic.run(10)
    assert went[B] / went.total() < 0.05


async def test_a_burst_does_not_land_on_one_endpoint() -> None:
    """Requests count as in progress from when their endpoint is chosen, so a burst is divided equally."""
    traffic = Traffic({A: 0.1, B: 0.1})
    chosen = Counter(traffic._send(None) for _ in range(16))
    assert chosen == {A: 8, B: 8}


async def test_a_conversation_keeps_its_endpoint() -> None:
    traffic = Traffic({A: 0.001, B: 0.001, C: 0.001})
    await traffic.run(2)
    went = await traffic.run(5, session="conversation-1")
    assert max(went.values()) / went.total() > 0.9


async def test_a_conversation_leaves_an_endpoint_that_is_much_slower() -> None:
    seconds = {A: 0.01, B: 0.01}
    traffic = Traffic(seconds)
    await traffic.run(2)
    home = (await traffic.run(2, session="conversation-1")).most_common(1)[0][0]
    seconds[home] = 1.0
    await traffic.run(3, session="conversation-1")
    went = await traffic.run(10, session="conversation-1")
    assert went[home] / went.total() < 0.1


async def test_sessions_spread_over_the_endpoints() -> None:
    traffic = Traffic({A: 0.01, B: 0.01, C: 0.01})
    homes = Counter([(await traffic.run(0.05, session=f"c{n}")).popitem()[0] for n in range(300)])
    assert min(homes.values()) > 60


async def test_an_endpoint_that_was_down_gets_its_load_back_slowly() -> None:
    traffic = Traffic({A: 0.1, B: 0.1})
    await traffic.run(5)
    lease = traffic.pool.leases.acquire(B)
    assert lease is not None
    traffic.pool.outcomes.record_failure(lease, error="endpoint_unreachable", kind="unreachable")
    traffic.pool.leases.release(lease)
    await traffic.run(6)
    soon, later = await traffic.run(2), await traffic.run(20)
    assert 0 < soon[B] / soon.total() < 0.4 < later[B] / later.total()


async def test_without_other_providers_a_pool_that_is_mostly_down_is_tried() -> None:
    for sole_provider, expected in ((False, 0), (True, 3)):
        clock = ManualClock()
        pool = EndpointPool(
            (A, B, C), clock=clock, rest_after=2, random=lambda: 0.5, sole_provider=sole_provider
        )
        for url in (A, B, C):
            lease = pool.leases.acquire(url)
            assert lease is not None
            pool.outcomes.record_failure(lease, error="endpoint_unreachable", kind="unreachable")
            pool.leases.release(lease)
        assert sum(pool.leases.acquire(url) is not None for url in (A, B, C)) == expected


async def test_a_drained_endpoint_gets_nothing_until_it_is_reset() -> None:
    traffic = Traffic({A: 0.1, B: 0.1})
    assert traffic.pool.control.drain("ray-2")
    assert set(await traffic.run(5)) == {A}
    assert traffic.pool.control.statuses()[1].state == "drained"
    assert traffic.pool.control.reset("ray-2")
    assert (await traffic.run(5))[B] > 0
    assert not traffic.pool.control.drain("ray-3")
    assert not traffic.pool.control.reset("")


@pytest.mark.parametrize("seconds", [0.0, DECAY_SECONDS, 3 * DECAY_SECONDS])
def test_latency_jumps_up_and_fades(seconds: float) -> None:
    latency = PeakEwma()
    latency.observe(0.1, 0.0)
    latency.observe(2.0, 1.0)
    assert latency.at(1.0) == 2.0
    assert latency.at(1.0 + seconds) == pytest.approx(2.0 * 2.718281828 ** (-seconds / 10))
    latency.observe(0.1, 1.001)
    assert latency.at(1.001) > 1.9, "one fast answer does not make it fast"


def test_the_limit_follows_refusals() -> None:
    limit = ConcurrencyLimit(64)
    for _ in range(100):
        limit.increase(1)
    assert limit.value == 64, "unused room says nothing"
    limit.decrease()
    assert limit.value == 44
    for _ in range(44):
        limit.increase(limit.value)
    assert limit.value in {44, 45}, "one more after as many answers"
    for _ in range(50):
        limit.decrease()
    assert limit.value == 1


async def test_the_budget_bounds_what_is_sent_beyond_first_attempts() -> None:
    """With 20 failing requests a second that retry three times each, the retry budget limits the retries."""
    clock = ManualClock()
    budget, spent = RetryBudget(clock), 0
    for _ in range(20 * 60):
        budget.request()
        spent += sum(budget.spend() for _ in range(3))
        await clock.advance(1 / 20)
    allowed = (SHARE * 20 + FLOOR_PER_SECOND) * (60 + MEMORY_SECONDS)
    assert 0.8 * allowed < spent <= allowed


async def test_a_client_with_few_requests_may_retry() -> None:
    clock = ManualClock()
    budget = RetryBudget(clock)
    assert all(budget.spend() for _ in range(30))
    assert not budget.spend()
    await clock.advance(MEMORY_SECONDS + 0.1)
    assert budget.spend()


async def test_refusals_that_come_together_count_once() -> None:
    clock = ManualClock()
    pool = EndpointPool((A,), clock=clock, rest_after=99, random=lambda: 0.5, max_requests=48)
    leases = [pool.leases.acquire(A) for _ in range(40)]
    await clock.advance(0.1)
    for lease in leases[:10]:
        assert lease is not None
        pool.outcomes.record_busy(lease, wait=0.0)
    assert pool.control.statuses()[0].limit == 33


async def test_an_endpoint_that_may_be_tested_makes_room_for_one() -> None:
    """An endpoint that is due for a trial adds one place to the capacity while the trial may run."""
    clock = ManualClock()
    pool = EndpointPool((A, B), clock=clock, rest_after=2, random=lambda: 1.0, max_requests=16)
    lease = pool.leases.acquire(B)
    assert lease is not None
    pool.outcomes.record_failure(lease, error="endpoint_unreachable", kind="unreachable")
    pool.leases.release(lease)
    assert pool.selection.capacity == 8
    pool.probes.record(B, "reachable")
    assert pool.selection.capacity == 9
    assert pool.leases.acquire(B) is not None
    assert pool.selection.capacity == 9, "the test itself; nobody else meanwhile"


def test_a_wait_that_was_given_up_only_ever_raises_the_average() -> None:
    """A cancelled wait for a first token raises the average if it was longer, and never lowers it."""
    average = PeakEwma()
    average.observe(0.5, 0.0)
    average.at_least(0.1, 1.0)
    assert average.last == 0.5
    average.at_least(2.0, 1.0)
    assert average.last == 2.0


async def test_an_endpoint_that_lost_to_a_hedge_is_not_preferred_next() -> None:
    """An endpoint overtaken by a hedge gets the time waited as its latency, without a failure or lower limit."""
    clock = ManualClock()
    pool = EndpointPool((A, B), clock=clock, rest_after=2, random=lambda: 0.0)
    for url in (A, B):
        lease = pool.leases.acquire(url)
        assert lease is not None
        await clock.advance(0.2)
        pool.outcomes.record_first_token(lease)
        pool.outcomes.record_completed(lease)
        pool.leases.release(lease)
    assert pool.selection.choose((A, B)) == A
    slow = pool.leases.acquire(A)
    assert slow is not None
    before = pool.control.statuses()[0]
    await clock.advance(0.5)
    pool.outcomes.record_overtaken(slow)
    pool.leases.release(slow)
    assert pool.selection.choose((A, B)) == B
    after = pool.control.statuses()[0]
    assert (after.state, after.failures, after.limit) == ("up", 0, before.limit)
    assert (after.first_token_seconds, after.in_flight) == (0.5, 0)
