"""How often a name may be tried: bounded memory of recent login attempts."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongars.core.errors import TooManyRequests

if TYPE_CHECKING:
    from mongars.core.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleConfig:
    """`attempts` per name within `seconds`; at most `names` names are remembered."""

    attempts: int = 5
    seconds: float = 60.0
    names: int = 10_000


class LoginThrottle:
    """Counts attempts per name, whether such an account exists or not.

    An attempt counts from its beginning, so that a burst of simultaneous ones gains nothing. The
    memory is this process's own: with N processes a name has N times the attempts.
    """

    def __init__(self, clock: Clock, config: ThrottleConfig | None = None) -> None:
        self._clock = clock
        self._config = config or ThrottleConfig()
        self._attempts: OrderedDict[str, deque[float]] = OrderedDict()

    def admit(self, username: str) -> None:
        """Count an attempt. Raises `TooManyRequests` with `retry_after` if there were too many."""
        name = username.lower()
        now = self._clock.monotonic()
        attempts = self._attempts.setdefault(name, deque())
        self._attempts.move_to_end(name)
        while attempts and attempts[0] <= now - self._config.seconds:
            attempts.popleft()
        if len(attempts) >= self._config.attempts:
            wait = attempts[0] + self._config.seconds - now
            msg = f"Too many login attempts for this name. Try again in {wait:.0f} s."
            raise TooManyRequests(msg, retry_after=wait)
        attempts.append(now)
        while len(self._attempts) > self._config.names:
            self._attempts.popitem(last=False)

    def withdraw(self, username: str) -> None:
        """Take back the latest attempt: nothing came of it, right or wrong."""
        attempts = self._attempts.get(username.lower())
        if attempts:
            attempts.pop()

    def succeeded(self, username: str) -> None:
        """Forget the attempts of a name whose owner has proven themselves."""
        self._attempts.pop(username.lower(), None)
