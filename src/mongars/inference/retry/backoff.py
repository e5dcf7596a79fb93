"""How long to wait before the next attempt, when the response had no `Retry-After`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def backoff(nth: int, ceilings: tuple[float, ...], random: Callable[[], float]) -> float:
    """Seconds to wait: a random part of the nth ceiling (full jitter); the last ceiling repeats.

    `nth` counts from 0; `random` draws from [0, 1). Without ceilings the wait is 0. Full jitter
    spreads the retries of many clients evenly, so that a starting replica is not overloaded.
    """
    if not ceilings:
        return 0.0
    return random() * ceilings[min(nth, len(ceilings) - 1)]
