"""One absolute deadline per request, shared by every wait on its way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongars.core.errors import DeadlineExceeded

if TYPE_CHECKING:
    from mongars.core.clock import Clock


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock after which the response is no longer of use."""

    clock: Clock
    at: float

    @classmethod
    def after(cls, clock: Clock, seconds: float) -> Deadline:
        """The deadline that many seconds from now."""
        return cls(clock, clock.monotonic() + seconds)

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - self.clock.monotonic())

    def expired(self) -> bool:
        """Whether no time is left."""
        return self.clock.monotonic() >= self.at

    def check(self, what: str) -> None:
        """Raise `DeadlineExceeded`, naming what was being waited for, once no time is left."""
        if self.expired():
            msg = f"No time left to {what}."
            raise DeadlineExceeded(msg)
