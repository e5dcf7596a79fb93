"""Refusals at a bounded rate.

A refusal costs several milliseconds of the cores that the engine needs, most of them in Ray. A crowd
that does not heed `Retry-After` can so take all the time from the answers that were accepted: 72
callers who came back every quarter of a second left an engine on two cores almost none (ADR 0014).
Who is refused while refusals are frequent hears of it a little later, which holds the crowd back;
the rule is the generic cell rate algorithm (ITU-T I.371).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mongars.core.clock import Clock

PER_SECOND = 20.0
BURST = 20
LONGEST = 2.0
"""Seconds; below the `Retry-After` of a queue that is really full."""


class Refusals:
    """Says when the next refusal may be told."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next = clock.monotonic() - BURST / PER_SECOND

    async def turn(self) -> None:
        """Wait until this refusal may be told: not at all, or up to `LONGEST` seconds."""
        now = self._clock.monotonic()
        self._next = max(self._next, now - BURST / PER_SECOND) + 1 / PER_SECOND
        self._next = min(self._next, now + LONGEST)
        if self._next > now:
            await self._clock.sleep(self._next - now)
