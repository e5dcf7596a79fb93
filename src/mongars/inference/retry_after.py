"""Reading how long a busy peer asks us to stay away."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def retry_after(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """Seconds to stay away; None when the peer did not say, or said nothing usable.

    Understood are `retry-after-ms`, `Retry-After` in (fractional) seconds, and `Retry-After` as
    an HTTP date. A date counts from the answer's own `Date`, so that a clock that is wrong on
    either side cancels out; without `Date` it counts from `now`. `headers` are looked up by
    their lower-case names.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None:
        return seconds
    until = _date(value)
    if until is None:
        return None
    start = _date(headers.get("date")) or now
    wait = (until - start).total_seconds()
    return wait if wait >= 0 else None


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _date(value: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(value or "")
    except (ValueError, OverflowError):
        return None
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date
