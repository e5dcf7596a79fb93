"""The delay before the next attempt after a response without `Retry-After`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def backoff(nth: int, ceilings: tuple[float, ...], random: Callable[[], float]) -> float:
    """Random delay in seconds before retry number `nth` (from 0), between 0 and that retry's ceiling (full jitter).

    `ceilings`: upper bounds in seconds, one per retry; the last one repeats, and without any the delay is 0. `random`
    returns a number in [0, 1). Full jitter spreads the retries of many clients evenly, so that a starting replica is
    not overloaded.
    """
    if not ceilings:
        return 0.0
    return random() * ceilings[min(nth, len(ceilings) - 1)]
