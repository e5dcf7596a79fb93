"""A deadline: one absolute point in time per request, used by every wait on behalf of that request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongars.core.errors import DeadlineExceeded

if TYPE_CHECKING:
    from mongars.core.clock import Clock


@dataclass(frozen=True, slots=True)
class Deadline:
    """The time by which the response to a request must be complete: `at`, in seconds on `clock.monotonic()`."""

    clock: Clock
    at: float

    @classmethod
    def after(cls, clock: Clock, seconds: float) -> Deadline:
        """A deadline `seconds` from now on the monotonic clock of `clock`."""
        return cls(clock, clock.monotonic() + seconds)

    def remaining(self) -> float:
        """Seconds left; 0 once the deadline has passed."""
        return max(0.0, self.at - self.clock.monotonic())

    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return self.clock.monotonic() >= self.at

    def check(self, what: str) -> None:
        """Raise `DeadlineExceeded` if the deadline has passed; its message is "No time left to", then `what`.

        `what` is a verb with its object, such as "load the model".
        """
        if self.expired():
            msg = f"No time left to {what}."
            raise DeadlineExceeded(msg)
