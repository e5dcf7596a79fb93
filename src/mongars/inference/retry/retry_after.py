"""Parses `Retry-After`: how long to wait before the next request to a busy server.

The forms are those of RFC 9110, section 10.2.3: whole seconds, or an HTTP date. The header `retry-after-ms` and
decimal seconds are accepted too, since model servers send both. A number in any other form (`1e308`, `nan`,
`+5`, a negative one) is ignored. The result is bounded, so that one wrong number from a server cannot take an
endpoint out of use for a day.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_DECIMAL = re.compile(r"[0-9]{1,300}(\.[0-9]{1,20})?", re.ASCII)


def retry_after(headers: Mapping[str, str], *, now: datetime, maximum: float) -> float | None:
    """Seconds to wait according to the header `retry-after-ms` or `Retry-After` of a response, at most `maximum`.

    `retry-after-ms` wins if it is valid. None if both are missing or malformed, or the time is in the past. A date is
    compared with the response's `Date`, so that clock differences cancel out; without `Date`, with `now`. The keys of
    `headers` must be lower case.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return min(maximum, milliseconds / 1000)
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None:
        return min(maximum, seconds)
    until = _date(value)
    if until is None:
        return None
    start = _date(headers.get("date")) or now
    wait = (until - start).total_seconds()
    return min(maximum, wait) if wait >= 0 else None


def _number(value: str | None) -> float | None:
    text = (value or "").strip()
    return float(text) if _DECIMAL.fullmatch(text) else None


def _date(value: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(value or "")
        return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
    except (ValueError, OverflowError):  # not a date, or out of range
        return None
