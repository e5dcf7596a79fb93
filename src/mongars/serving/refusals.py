"""Limit the rate at which refusals of requests are sent.

A refusal costs several milliseconds of CPU time, most of them in Ray, which the engine then lacks. Clients that
ignore `Retry-After` can starve the accepted requests: 96 clients, of which 24 were accepted and the others retried
every quarter of a second, left an engine on two cores little CPU time (ADR 0014). So while refusals are frequent, each is delayed, which slows such
clients down. The rule is the generic cell rate algorithm (ITU-T I.371).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mongars.core.clock import Clock

PER_SECOND = 20.0
BURST = 20
LONGEST = 2.0
"""The longest delay of a refusal in seconds; shorter than the `Retry-After` of a full queue."""


class Refusals:
    """Delays error responses for overload so that, after a burst of 20, at most 20 are sent per second.

    No response is delayed longer than 2 seconds, so the rate is exceeded if there are very many.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next = clock.monotonic() - BURST / PER_SECOND

    async def turn(self) -> None:
        """Wait, 0 to 2 seconds, until the next error response for overload may be sent."""
        now = self._clock.monotonic()
        self._next = max(self._next, now - BURST / PER_SECOND) + 1 / PER_SECOND
        self._next = min(self._next, now + LONGEST)
        if self._next > now:
            await self._clock.sleep(self._next - now)
