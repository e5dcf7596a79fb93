"""Limits on login attempts per username and client address, with bounded memory."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongars.core.errors import TooManyRequests

if TYPE_CHECKING:
    from mongars.core.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleConfig:
    """The most login attempts in a period of `seconds`: `attempts` per username and address, `of_a_name` per username.

    In total, the attempts of at most 2 * `names` usernames and pairs of username and address are stored; those used
    longest ago are dropped.
    """

    attempts: int = 5
    of_a_name: int = 30
    seconds: float = 60.0
    names: int = 10_000


class LoginThrottle:
    """Limits login attempts per username and client address, whether the account exists or not.

    Wrong guesses from one address do not lock the owner of a name out elsewhere. Guesses from many addresses do, except
    at addresses from which the owner has logged in before.

    An attempt counts when it starts, so a burst of simultaneous attempts has no advantage. Counts are kept per process:
    with N processes a name has N times the attempts.
    """

    def __init__(self, clock: Clock, config: ThrottleConfig | None = None) -> None:
        self._clock = clock
        self._config = config or ThrottleConfig()
        self._attempts: OrderedDict[tuple[str, ...], deque[float]] = OrderedDict()
        self._known: OrderedDict[tuple[str, ...], None] = OrderedDict()

    def admit(self, username: str, address: str = "") -> None:
        """Record a login attempt for `username` (ignoring case) from `address`, an IP address or network as text.

        `address` is compared as text; empty if unknown. Raises `TooManyRequests`, with the seconds to wait in
        `retry_after`, if a limit is reached already; the attempt is not recorded then.
        """
        for key, limit in self._limits(username, address):
            attempts = self._recent(key)
            if len(attempts) >= limit:
                wait = attempts[0] + self._config.seconds - self._clock.monotonic()
                msg = f"Too many login attempts for this name. Try again in {wait:.0f} s."
                raise TooManyRequests(msg, retry_after=wait)
        for key, _ in self._limits(username, address):
            self._attempts[key].append(self._clock.monotonic())
        while len(self._attempts) > 2 * self._config.names:
            self._attempts.popitem(last=False)

    def withdraw(self, username: str, address: str = "") -> None:
        """Undo the latest `admit` of this username (ignoring case) and address.

        For a login that ended without a password check. Does nothing if no attempt is recorded.
        """
        for key, _ in self._limits(username, address):
            attempts = self._attempts.get(key)
            if attempts:
                attempts.pop()

    def succeeded(self, username: str, address: str = "") -> None:
        """Record a successful login: clear the recorded attempts of `username` from `address`.

        Later attempts with this name from this address are limited by `ThrottleConfig.attempts` only.
        """
        key = (username.lower(), address)
        self.withdraw(username, address)
        self._attempts.pop(key, None)
        self._known[key] = None
        self._known.move_to_end(key)
        while len(self._known) > self._config.names:
            self._known.popitem(last=False)

    def _limits(self, username: str, address: str) -> list[tuple[tuple[str, ...], int]]:
        name = username.lower()
        limits: list[tuple[tuple[str, ...], int]] = [((name, address), self._config.attempts)]
        if (name, address) not in self._known:
            limits.append(((name,), self._config.of_a_name))
        return limits

    def _recent(self, key: tuple[str, ...]) -> deque[float]:
        attempts = self._attempts.setdefault(key, deque())
        self._attempts.move_to_end(key)
        oldest = self._clock.monotonic() - self._config.seconds
        while attempts and attempts[0] <= oldest:
            attempts.popleft()
        return attempts
