"""When a request may be hedged: the percentile of first-token times, and the limit on hedges."""

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
    """A `Hedging` with just enough first-token times to hedge."""
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
    """The percentile is an observed time that at least 95% of the times do not exceed."""
    times = FirstTokenTimes()
    for value in seconds:
        times.add(value)
    assert times.percentile in seconds
    assert sum(value <= times.percentile for value in seconds) >= 0.95 * len(seconds)
    assert sum(value >= times.percentile for value in seconds) >= 0.05 * len(seconds)


def test_old_times_are_forgotten() -> None:
    """Once as many new times were added as are kept, the old ones no longer count."""
    times = FirstTokenTimes()
    for value in [9.0] * MAX_SAMPLES + [0.1] * MAX_SAMPLES:
        times.add(value)
    assert times.percentile == 0.1


def test_hedging_does_not_hide_how_slow_the_slow_ones_are() -> None:
    """Cancelled first attempts count with the time they waited, so that the percentile does not sink."""
    hedging = experienced(ManualClock())
    late = hedging.delay
    for number in range(20 * MAX_SAMPLES):
        delay = hedging.delay
        hedging.record_wait(delay if number % 16 == 0 else 0.1)
    assert hedging.delay == late


@settings(deadline=None)  # slow machines must not fail this test
@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 40), st.integers(0, 5)), max_size=40))
def test_hedges_stay_within_5_percent_and_a_small_floor(
    bursts: list[tuple[float, int, int]],
) -> None:
    """Hedges are at most 5% of the requests in the budget's time window, plus one."""

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
    """A hedge takes one from the retry budget, and an exhausted budget allows no hedge."""
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
