"""How long to wait before the next try, when the peer did not say."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def backoff(nth: int, ceilings: tuple[float, ...], random: Callable[[], float]) -> float:
    """Full jitter: anything between zero and the nth ceiling; the last ceiling repeats.

    `nth` counts from 0. `random` draws from [0, 1). Full jitter spreads the retries of many
    clients evenly, which is what a replica that is just starting can bear best.
    """
    if not ceilings:
        return 0.0
    return random() * ceilings[min(nth, len(ceilings) - 1)]
