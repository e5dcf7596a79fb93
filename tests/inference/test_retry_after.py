from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mongars.inference.retry_after import retry_after

NOW = datetime(2025, 1, 8, 12, 0, tzinfo=UTC)
DATES = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(st.floats(min_value=0, max_value=1e9))
def test_seconds_are_taken_as_they_are(seconds: float) -> None:
    """Whole or fractional seconds are understood, however many."""
    assert retry_after({"retry-after": repr(seconds)}, now=NOW) == seconds


@given(st.integers(min_value=0, max_value=10**9))
def test_milliseconds_win_over_seconds(milliseconds: int) -> None:
    """`retry-after-ms` is the more exact of the two, so it is the one obeyed."""
    found = {"retry-after-ms": str(milliseconds), "retry-after": "1"}
    assert retry_after(found, now=NOW) == milliseconds / 1000


@given(DATES, st.integers(min_value=0, max_value=10**6), st.integers(-(10**6), 10**6))
def test_a_date_counts_from_the_answers_own_date(start: datetime, wait: int, skew: int) -> None:
    """A wrong clock, ours or theirs, does not change how long we stay away."""
    start = start.replace(microsecond=0)
    found = {
        "date": format_datetime(start, usegmt=True),
        "retry-after": format_datetime(start + timedelta(seconds=wait), usegmt=True),
    }
    assert retry_after(found, now=start + timedelta(seconds=skew)) == wait


@given(st.integers(min_value=1, max_value=10**8))
def test_a_date_in_the_past_says_nothing(ago: int) -> None:
    """A moment that is over leaves us to our own backoff."""
    found = {"retry-after": format_datetime(NOW - timedelta(seconds=ago), usegmt=True)}
    assert retry_after(found, now=NOW) is None


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_garbage_is_ignored(milliseconds: str, seconds: str, date: str) -> None:
    """Whatever a peer writes there, the outcome is a sane number of seconds, or none."""
    found = {"retry-after-ms": milliseconds, "retry-after": seconds, "date": date}
    wait = retry_after(found, now=NOW)
    assert wait is None or (wait >= 0 and math.isfinite(wait))


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "-inf", "soon", "", "1e400"])
def test_numbers_that_are_none_are_ignored(value: str) -> None:
    """Negative and infinite waits are garbage, too."""
    assert retry_after({"retry-after": value}, now=NOW) is None


def test_without_a_header_nothing_is_asked() -> None:
    """No header, no wait."""
    assert retry_after({}, now=NOW) is None
