"""The queue before an endpoint pool: first come, first served, and nobody waits in vain.

Whoever cannot be served before their time is up is told so on arrival, with the time after which it
would be worth asking again: a request that waits and then fails has cost its caller both.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from mongars.core.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from mongars.core.clock import Clock

MOST_WAITING = 256
SMOOTHING = 0.2
"""Weight of the newest request in the average time between two that end."""


class Gate:
    """Lets as many requests through as `capacity` says at that moment; None lets everybody."""

    def __init__(self, capacity: Callable[[], int | None], *, clock: Clock) -> None:
        self._capacity = capacity
        self._clock = clock
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._since = 0.0
        """When somebody left last, or began to wait before an empty queue."""
        self._between = 0.0
        self.active = 0
        """Requests that are through and have not ended."""

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @asynccontextmanager
    async def slot(self, patience: float) -> AsyncIterator[float]:
        """Pass the gate within `patience` seconds; yields how many it took.

        Raises `Overloaded`, at once if the queue is too long for that patience.
        """
        arrived = self._clock.monotonic()
        if self._waiting or self._free() < 1:
            await self._turn(patience)
        else:
            self.active += 1
        try:
            yield self._clock.monotonic() - arrived
        finally:
            self._leave()

    @contextmanager
    def spare(self) -> Iterator[bool]:
        """A second place for a request that is through; yields whether there was one to spare."""
        found = not self._waiting and self._free() >= 1
        self.active += found
        try:
            yield found
        finally:
            if found:
                self._leave()

    def wake(self) -> None:
        """Let those through for whom there is room; to be called when the capacity has grown."""
        while self._waiting and self._free() >= 1:
            turn = self._waiting.popleft()
            if not turn.done():
                self.active += 1  # handed over here, so that no newcomer takes it first
                turn.set_result(None)

    async def _turn(self, patience: float) -> None:
        expected = self._between * (len(self._waiting) + 1)
        if not self._waiting:
            self._since = self._clock.monotonic()
            expected = 0.0  # what was measured in an earlier queue need not hold for this one
        if expected > patience or len(self._waiting) >= MOST_WAITING:
            raise self._refusal(expected)
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(patience):
                await turn
        except TimeoutError as exc:
            self._give_up(turn)
            raise self._refusal(expected) from exc
        except asyncio.CancelledError:
            self._give_up(turn)
            raise

    def _give_up(self, turn: asyncio.Future[None]) -> None:
        if turn.done() and not turn.cancelled():
            self._leave()  # its turn came in the same moment
        elif turn in self._waiting:
            self._waiting.remove(turn)

    def _leave(self) -> None:
        self.active -= 1
        now = self._clock.monotonic()
        if self._waiting:
            self._between += SMOOTHING * (now - self._since - self._between)
            self._since = now
        self.wake()

    def _free(self) -> float:
        capacity = self._capacity()
        return math.inf if capacity is None else capacity - self.active

    def _refusal(self, expected: float) -> Overloaded:
        detail = (
            f"{self.active} requests to Ray are under way and {len(self._waiting)} wait: as many as"
            " RAY_CLIENT_MAX_CONNECTIONS and the endpoints bear."
        )
        return Overloaded(detail, retry_after=max(1.0, expected))
