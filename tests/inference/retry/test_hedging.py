"""When a second attempt may go out: the percentile, and what it costs at most."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from mongars.inference.retry.budget import FLOOR_PER_SECOND, MEMORY_SECONDS, RetryBudget
from mongars.inference.retry.hedging import (
    MAX_SAMPLES,
    MIN_SAMPLES,
    SHARE,
    FirstTokenTimes,
    Hedging,
)
from mongars.testing.manual_clock import ManualClock

FLOOR = 1


def experienced(clock: ManualClock, shared: RetryBudget | None = None) -> Hedging:
    """Hedging with just enough first-token times."""
    hedging = Hedging(clock, shared or RetryBudget(clock))
    for _ in range(MIN_SAMPLES):
        hedging.record_wait(0.2)
    return hedging


def test_no_percentile_before_enough_samples() -> None:
    times = FirstTokenTimes()
    for number in range(MIN_SAMPLES):
        assert times.percentile is None, number
        times.add(1.0)
    assert times.percentile == 1.0


@given(st.lists(st.floats(0, 60), min_size=MIN_SAMPLES, max_size=MAX_SAMPLES))
def test_late_is_what_19_of_20_are_not(seconds: list[float]) -> None:
    """At least 95 % took no longer, and some request really took that long."""
    times = FirstTokenTimes()
    for value in seconds:
        times.add(value)
    assert times.percentile in seconds
    assert sum(value <= times.percentile for value in seconds) >= 0.95 * len(seconds)
    assert sum(value >= times.percentile for value in seconds) >= 0.05 * len(seconds)


def test_old_times_are_forgotten() -> None:
    """After as many new ones as are kept, the old ones decide nothing any more."""
    times = FirstTokenTimes()
    for value in [9.0] * MAX_SAMPLES + [0.1] * MAX_SAMPLES:
        times.add(value)
    assert times.percentile == 0.1


def test_hedging_does_not_hide_how_slow_the_slow_ones_are() -> None:
    """Cancelled first attempts count with the time they had waited, so that the percentile does not sink."""
    hedging = experienced(ManualClock())
    late = hedging.delay
    for number in range(20 * MAX_SAMPLES):
        delay = hedging.delay
        hedging.record_wait(delay if number % 16 == 0 else 0.1)
    assert hedging.delay == late


@settings(deadline=None)  # a slow machine is no failure
@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 40), st.integers(0, 5)), max_size=40))
def test_hedges_stay_within_5_percent_and_a_small_floor(
    bursts: list[tuple[float, int, int]],
) -> None:
    """Of the requests in the budget's window, however often a hedge is wanted."""

    async def scenario() -> None:
        clock = ManualClock()
        hedging = experienced(clock)
        requests: list[float] = []
        hedges: list[float] = []
        for pause, arriving, late in bursts:
            await clock.advance(pause)
            now = clock.monotonic()
            for _ in range(arriving):
                hedging.request()
                requests.append(now)
            window = now - MEMORY_SECONDS
            bound = FLOOR + SHARE * sum(at >= window for at in requests)
            for _ in range(late):
                if hedging.spend():
                    hedges.append(now)
                    assert sum(at >= window for at in hedges) <= bound

    asyncio.run(scenario())


def test_a_hedge_is_paid_from_the_budget_of_all_retries() -> None:
    """Where retries have used it up there are no hedges, and a hedge leaves less for retries."""
    clock = ManualClock()
    shared = RetryBudget(clock)
    hedging = experienced(clock, shared)
    before = shared.left
    assert hedging.spend()
    assert shared.left == before - 1
    other = experienced(clock, shared)
    while shared.spend():
        pass
    assert not other.spend()
    assert before == FLOOR_PER_SECOND * MEMORY_SECONDS
