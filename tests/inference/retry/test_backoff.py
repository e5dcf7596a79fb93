from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mongars.inference.retry.backoff import backoff

CEILINGS = st.lists(st.floats(min_value=0, max_value=60), max_size=6).map(tuple)


@given(st.integers(0, 20), CEILINGS, st.floats(min_value=0, max_value=1, exclude_max=True))
def test_waits_stay_under_their_ceiling(nth: int, ceilings: tuple[float, ...], draw: float) -> None:
    """Each wait is at most its entry in the configured list, whose last entry repeats."""
    wait = backoff(nth, ceilings, lambda: draw)
    assert 0 <= wait <= (ceilings[min(nth, len(ceilings) - 1)] if ceilings else 0)


def test_jitter_spreads_the_waits_evenly() -> None:
    """The wait is the random number times the configured maximum, so that clients retry at different times."""
    assert backoff(1, (0.5, 1.0), lambda: 0.25) == 0.25
    assert backoff(1, (0.5, 1.0), lambda: 0.75) == 0.75
