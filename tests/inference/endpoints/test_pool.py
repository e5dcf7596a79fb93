from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mongars.inference.endpoints.breaker import NEVER
from mongars.inference.endpoints.pool import EndpointPool
from mongars.testing.manual_clock import ManualClock

if TYPE_CHECKING:
    from mongars.inference.endpoints.state import EndpointLease

A, B = "http://a/generate", "http://b/generate"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def pool(clock: ManualClock) -> EndpointPool:
    return EndpointPool((A, B), clock=clock, rest_after=2, random=lambda: 1.0)


def admitted(pool: EndpointPool, url: str = A) -> EndpointLease:
    lease = pool.leases.acquire(url)
    assert lease is not None
    return lease


async def take_down(pool: EndpointPool, clock: ManualClock) -> None:
    lease = admitted(pool)
    pool.outcomes.record_failure(lease, error="endpoint_unreachable", kind="unreachable")
    pool.leases.release(lease)
    await clock.advance(0.001)


async def test_a_floor_is_never_lowered(pool: EndpointPool, clock: ManualClock) -> None:
    """A second, shorter `Retry-After` does not shorten the wait of the first."""
    first, second = admitted(pool), admitted(pool)
    assert pool.outcomes.record_busy(first, wait=5.0) == 5.0
    assert pool.outcomes.record_busy(second, wait=1.0) == 5.0
    await clock.advance(4.9)
    assert pool.leases.acquire(A) is None
    await clock.advance(0.1)
    assert pool.leases.acquire(A) is not None


async def test_a_dead_endpoint_is_skipped_for_longer_each_time(
    pool: EndpointPool, clock: ManualClock
) -> None:
    """Each failed trial doubles the time an endpoint is down, from 5 s to at most 30 s."""
    pauses = []
    for _ in range(6):
        await take_down(pool, clock)
        assert pool.selection.available_at(A) == NEVER
        before = clock.monotonic()
        while pool.selection.available_at(A) == NEVER:
            await clock.advance(0.25)
        pauses.append(round(clock.monotonic() - before))
    assert pauses == [5, 10, 20, 30, 30, 30]


async def test_half_open_admits_exactly_one(pool: EndpointPool, clock: ManualClock) -> None:
    """After the down time, one of a hundred requests is admitted, as the trial."""
    await take_down(pool, clock)
    await clock.advance(5.0)
    leases = [lease for _ in range(100) if (lease := pool.leases.acquire(A))]
    assert len(leases) == 1
    assert leases[0].is_trial


async def test_a_probe_that_gives_up_makes_room_for_the_next(
    pool: EndpointPool, clock: ManualClock
) -> None:
    """If the client of a trial request disconnects, another trial request is admitted."""
    await take_down(pool, clock)
    await clock.advance(5.0)
    pool.leases.release(admitted(pool))
    assert pool.leases.acquire(A) is not None


async def test_the_first_token_of_a_probe_opens_the_endpoint(
    pool: EndpointPool, clock: ManualClock
) -> None:
    """After the first token of the trial request, other requests are admitted."""
    await take_down(pool, clock)
    await clock.advance(5.0)
    pool.outcomes.record_first_token(admitted(pool))
    assert [pool.leases.acquire(A) is not None for _ in range(3)] == [True] * 3


async def test_cut_answers_add_up(pool: EndpointPool, clock: ManualClock) -> None:
    """An endpoint that begins five answers in a row and completes none is taken down."""
    for expected in (False, False, False, False, True):
        lease = admitted(pool)
        pool.outcomes.record_first_token(lease)
        assert (
            pool.outcomes.record_failure(lease, error="generation_interrupted", kind="error")
            is expected
        )
        pool.leases.release(lease)
        await clock.advance(0.001)


async def test_failing_together_counts_once(pool: EndpointPool, clock: ManualClock) -> None:
    """Ten requests that were in progress together and fail together count as one failure."""
    together = [admitted(pool) for _ in range(10)]
    await clock.advance(0.1)
    assert not any(
        pool.outcomes.record_failure(a, error="inference_failed", kind="error") for a in together
    )


async def test_a_complete_answer_resets_the_failure_count(
    pool: EndpointPool, clock: ManualClock
) -> None:
    """An endpoint whose failures have successes between them stays up."""
    for outcome in ("fail", "succeed", "succeed", "fail", "succeed", "succeed", "fail"):
        lease = admitted(pool)
        if outcome == "fail":
            assert not pool.outcomes.record_failure(lease, error="inference_failed", kind="error")
        else:
            pool.outcomes.record_first_token(lease)
            pool.outcomes.record_completed(lease)
        pool.leases.release(lease)
        await clock.advance(0.001)


async def test_a_busy_endpoint_rests_when_it_stays_busy(
    pool: EndpointPool, clock: ManualClock
) -> None:
    """An endpoint that is busy a second time is skipped for a while, then gets one trial request."""
    first = admitted(pool)
    pool.outcomes.record_busy(first, wait=0.5)
    pool.leases.release(first)
    assert pool.selection.available_at(A) == 0.5
    await clock.advance(0.5)
    second = admitted(pool)
    assert pool.outcomes.record_busy(second, wait=0.1) == 1.0
    pool.leases.release(second)
    assert pool.selection.available_at(A) == NEVER
    await clock.advance(1.0)
    assert admitted(pool).is_trial
    assert pool.leases.acquire(A) is None


async def test_the_background_probe_ends_a_down_time_but_no_rest(
    pool: EndpointPool, clock: ManualClock
) -> None:
    """A successful health probe ends the down time of an unreachable endpoint, but not the rest of a busy one."""
    await take_down(pool, clock)
    await clock.advance(0.5)
    assert A in pool.probes.due()
    assert pool.probes.record(A, "reachable")
    assert admitted(pool, A).is_trial, "somebody is there: one request finds out who"
    resting = admitted(pool, B)
    pool.outcomes.record_busy(resting, wait=30.0)
    pool.outcomes.record_busy(resting, wait=30.0)
    pool.probes.record(B, "ready")
    assert pool.leases.acquire(B) is None


async def test_the_background_probe_keeps_users_away_from_a_dead_host(
    pool: EndpointPool, clock: ManualClock
) -> None:
    """While the health probe finds an endpoint unreachable, no request is sent to it."""
    await take_down(pool, clock)
    for _ in range(20):
        pool.probes.record(A, "unreachable")
        await clock.advance(2.0)
        assert pool.leases.acquire(A) is None


async def test_a_probe_does_not_restore_an_endpoint_that_timed_out(
    pool: EndpointPool, clock: ManualClock
) -> None:
    """A health probe does not restore an endpoint whose model timed out; a trial request after 5 s does."""
    lease = admitted(pool)
    pool.outcomes.record_failure(lease, error="deadline_exceeded", kind="timeout")
    pool.leases.release(lease)
    assert not pool.probes.record(A, "ready")
    assert pool.leases.acquire(A) is None
    await clock.advance(5.0)
    assert admitted(pool).is_trial


async def test_probes_keep_their_distance(pool: EndpointPool, clock: ManualClock) -> None:
    """A down endpoint is probed soon and then every two seconds, however often due probes are queried."""
    pool.probes.record(B, "ready")
    await take_down(pool, clock)
    visits = 0
    for _ in range(100):
        visits += len(pool.probes.due())
        await clock.advance(0.1)
    assert visits == 5


async def test_an_application_that_is_starting_is_looked_at_more_often(
    pool: EndpointPool, clock: ManualClock
) -> None:
    """An endpoint that is starting is probed more often, and many requests are admitted once it is ready."""
    pool.probes.record(B, "ready")
    pool.probes.record(A, "unreachable")
    pool.probes.record(A, "not_ready")
    assert pool.control.statuses()[0].state == "down"
    visits = 0
    for _ in range(20):
        await clock.advance(0.1)
        if A in pool.probes.due():
            visits += 1
            pool.probes.record(A, "not_ready")
    assert visits in {3, 4}
    pool.probes.record(A, "ready")
    assert pool.control.statuses()[0].state == "warming"
    assert [admitted(pool).is_trial for _ in range(5)] == [False] * 5, "a crowd may come at once"


def test_a_probe_does_not_take_an_unknown_endpoint_down(pool: EndpointPool) -> None:
    """Before any request, a probe takes down an unreachable endpoint, but not one that is not ready."""
    assert not pool.probes.record(A, "not_ready")
    assert pool.leases.acquire(A) is not None
    assert pool.probes.record(B, "unreachable")
    assert pool.leases.acquire(B) is None


def test_in_flight_returns_to_zero(pool: EndpointPool) -> None:
    """Releasing all leases returns the number of requests in progress to zero."""
    leases = [admitted(pool) for _ in range(5)]
    assert pool.control.statuses()[0].in_flight == 5
    for lease in leases:
        pool.leases.release(lease)
    assert pool.control.statuses()[0].in_flight == 0


async def test_an_endpoint_that_speaks_to_others_is_not_silent(
    pool: EndpointPool, clock: ManualClock
) -> None:
    """A timeout takes an endpoint down only if no other request got a token meanwhile; else its limit decreases."""
    waiting, lucky = admitted(pool), admitted(pool)
    await clock.advance(3)
    pool.outcomes.record_first_token(lucky)
    await clock.advance(3)
    limit = pool.control.statuses()[0].limit
    assert not pool.outcomes.record_failure(waiting, error="deadline_exceeded", kind="timeout")
    assert pool.control.statuses()[0].state == "up"
    assert pool.control.statuses()[0].limit < limit
    await clock.advance(0.1)
    unheard = admitted(pool)
    await clock.advance(6)
    assert pool.outcomes.record_failure(unheard, error="deadline_exceeded", kind="timeout")
    assert pool.control.statuses()[0].state == "down"


async def test_an_endpoint_that_is_back_is_used_at_once(
    pool: EndpointPool, clock: ManualClock
) -> None:
    """An endpoint restored by a probe is chosen at once, whatever the latency of its failed requests."""
    busy = [admitted(pool, B) for _ in range(6)]
    await clock.advance(0.002)
    for lease in busy:
        pool.outcomes.record_first_token(lease)
    cut = admitted(pool)
    await clock.advance(0.3)
    pool.outcomes.record_failure(cut, error="generation_interrupted", kind="unreachable")
    pool.leases.release(cut)
    await clock.advance(3.0)
    pool.probes.record(A, "ready")
    assert pool.selection.choose([A, B]) == A


async def test_one_failure_does_not_keep_a_fast_endpoint_out_for_long(
    pool: EndpointPool, clock: ManualClock
) -> None:
    """The latency penalty of one failure has faded after 15 s, even if the other endpoint answers in 2 ms."""
    for url in (A, B):
        lease = admitted(pool, url)
        await clock.advance(0.002)
        pool.outcomes.record_first_token(lease)
        pool.leases.release(lease)
    failed = admitted(pool)
    pool.outcomes.record_failure(failed, error="inference_failed", kind="error")
    pool.leases.release(failed)
    assert pool.selection.choose([A, B]) == B
    await clock.advance(15.0)
    busy = [admitted(pool, B) for _ in range(6)]
    await clock.advance(0.002)
    for lease in busy:
        pool.outcomes.record_first_token(lease)
    assert pool.selection.choose([A, B]) == A


async def test_failures_of_requests_from_before_a_reset_are_ignored(
    pool: EndpointPool, clock: ManualClock
) -> None:
    """After an operator's reset, failures of requests from before the reset do not take the endpoint down."""
    before = [admitted(pool) for _ in range(6)]
    await clock.advance(1.0)
    pool.control.reset("ray-1")
    for lease in before[:5]:
        assert (
            pool.outcomes.record_failure(lease, error="inference_failed", kind="unreachable")
            is False
        )
        pool.leases.release(lease)
    pool.outcomes.record_busy(before[5], wait=30.0)
    pool.leases.release(before[5])
    assert pool.leases.acquire(A) is not None
