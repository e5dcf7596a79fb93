from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mongars.inference.retry.retry_after import retry_after

if TYPE_CHECKING:
    from decimal import Decimal

NOW = datetime(2025, 1, 8, 12, 0, tzinfo=UTC)
MAX_LIMIT = 1e9
DATES = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(st.decimals(min_value=0, max_value=10**9, places=3))
def test_seconds_are_taken_as_they_are(seconds: Decimal) -> None:
    """`Retry-After` may be whole or fractional seconds."""
    assert retry_after({"retry-after": f"{seconds:f}"}, now=NOW, maximum=MAX_LIMIT) == float(
        seconds
    )


@pytest.mark.parametrize(
    "found",
    [
        {"retry-after": "61"},
        {"retry-after": "86400"},
        {"retry-after": "9" * 300},
        {"retry-after-ms": "9" * 300},
        {"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"},
        {"retry-after": "Friday, 31-Dec-49 23:59:59 GMT"},
        {"retry-after": "Sun Nov  6 08:49:37 2044"},
    ],
    ids=lambda found: "".join(found.values())[:20],
)
def test_no_wait_is_longer_than_the_bound(found: dict[str, str]) -> None:
    """A `Retry-After` beyond the maximum of 60 s, as a number or a date, gives 60 s."""
    assert retry_after(found, now=NOW, maximum=60.0) == 60.0


@given(st.integers(min_value=0, max_value=10**9))
def test_milliseconds_win_over_seconds(milliseconds: int) -> None:
    """`retry-after-ms` takes precedence over `Retry-After`."""
    found = {"retry-after-ms": str(milliseconds), "retry-after": "1"}
    assert retry_after(found, now=NOW, maximum=MAX_LIMIT) == milliseconds / 1000


@given(DATES, st.integers(min_value=0, max_value=10**6), st.integers(-(10**6), 10**6))
def test_a_date_counts_from_the_answers_own_date(start: datetime, wait: int, skew: int) -> None:
    """A date in `Retry-After` counts from the response's `Date`, so that differing clocks do not change the wait."""
    start = start.replace(microsecond=0)
    found = {
        "date": format_datetime(start, usegmt=True),
        "retry-after": format_datetime(start + timedelta(seconds=wait), usegmt=True),
    }
    assert retry_after(found, now=start + timedelta(seconds=skew), maximum=MAX_LIMIT) == wait


@given(st.integers(min_value=1, max_value=10**8))
def test_a_date_in_the_past_is_ignored(ago: int) -> None:
    """A date in the past in `Retry-After` is ignored."""
    found = {"retry-after": format_datetime(NOW - timedelta(seconds=ago), usegmt=True)}
    assert retry_after(found, now=NOW, maximum=MAX_LIMIT) is None


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_invalid_values_are_ignored(milliseconds: str, seconds: str, date: str) -> None:
    """Any header values give None or a number of seconds within the maximum."""
    found = {"retry-after-ms": milliseconds, "retry-after": seconds, "date": date}
    wait = retry_after(found, now=NOW, maximum=MAX_LIMIT)
    assert wait is None or 0 <= wait <= MAX_LIMIT


@pytest.mark.parametrize(
    "value",
    ["-1", "nan", "inf", "-inf", "soon", "", "1e400", "1e308", "+5", "1_0", "0x10", "5 s", "٣"],
)
def test_numbers_that_are_none_are_ignored(value: str) -> None:
    """`Retry-After` with a sign, exponent, unit, or non-ASCII digits is ignored."""
    assert retry_after({"retry-after": value}, now=NOW, maximum=MAX_LIMIT) is None


def test_without_a_header_there_is_no_wait() -> None:
    """Without a header the result is None."""
    assert retry_after({}, now=NOW, maximum=MAX_LIMIT) is None
