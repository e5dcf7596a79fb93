"""Limit the rate at which refusals of requests are sent.

A refusal costs several milliseconds of CPU time, most of them in Ray, which the engine then lacks. Clients that
ignore `Retry-After` can starve the accepted requests: 72 clients that retried every quarter of a second left an
engine on two cores almost no CPU time (ADR 0014). So while refusals are frequent, each is delayed, which slows such
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
    """Delays error responses to refused requests while more than `PER_SECOND` of them are sent per second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next = clock.monotonic() - BURST / PER_SECOND

    async def turn(self) -> None:
        """Wait until the next refusal may be sent: 0 seconds while refusals are rare, at most `LONGEST` seconds."""
        now = self._clock.monotonic()
        self._next = max(self._next, now - BURST / PER_SECOND) + 1 / PER_SECOND
        self._next = min(self._next, now + LONGEST)
        if self._next > now:
            await self._clock.sleep(self._next - now)
