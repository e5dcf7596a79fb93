"""The open connections of one server: their maximum number, and closing those that are overdue."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sized

    from mongars.protocol.http1.limits import HttpLimits

    ReportCounts = Callable[[Mapping[str, int]], None]

SWEEP_SECONDS = 1.0
REPORT_SECONDS = 60.0
REFUSING = 64
"""Connections beyond the limit that get a 503; further ones are closed without one."""


class Connection(Protocol):
    """One connection, as `Connections` needs it in order to close it."""

    due: float
    """Time of the event loop at which it is closed; infinite while a request is being answered."""

    def expire(self) -> None:
        """Close it because its time is over. Called again each second until it is closed."""
        ...

    def evict(self) -> None:
        """Close it to make a slot free for a new connection."""
        ...


class Connections:
    """Admits connections and closes them when they are due.

    `report` is called with the number of refused connections by reason, at most once in `REPORT_SECONDS`,
    since clients without a key can cause any number of refusals.
    """

    def __init__(self, limits: HttpLimits, report: ReportCounts) -> None:
        self.limits = limits
        self.idle: dict[Connection, None] = {}
        """Connections without a request being answered, oldest first."""
        self.receiving: dict[Connection, None] = {}
        """Connections whose request body is not complete, oldest first."""
        self._open: set[Connection] = set()
        self._report = report
        self._refused: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._report_at = 0.0

    def admit(
        self, connection: Connection, connections: Sized, loop: asyncio.AbstractEventLoop
    ) -> bool | None:
        """Whether the new connection is within the limit: True accepts it, False answers it with 503, None closes it.

        At the limit the oldest idle connection is closed to admit it, or else the oldest that has not sent its
        whole request. `connections` are all of the server, including this one.
        """
        self._open.add(connection)
        self._watch(loop)
        if len(connections) <= self.limits.connections:
            self.idle[connection] = None
            return True
        for candidates in (self.idle, self.receiving):
            if candidates:
                oldest = next(iter(candidates))
                del candidates[oldest]
                self.count("closed for a new one, all connections in use")
                oldest.evict()
                self.idle[connection] = None
                return True
        self.count("503 before the request was read")
        return False if len(connections) <= self.limits.connections + REFUSING else None

    def forget(self, connection: Connection) -> None:
        """Remove a connection that is closed or no longer speaks HTTP."""
        self.idle.pop(connection, None)
        self.receiving.pop(connection, None)
        self._open.discard(connection)

    def count(self, reason: str) -> None:
        """Count a refusal for the next report."""
        self._refused[reason] += 1

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the periodic check for overdue connections; it stops when no connection and no report is left."""
        if self._timer is None:
            self._timer = loop.call_later(SWEEP_SECONDS, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for connection in [one for one in self._open if one.due <= now]:
            connection.expire()
        if self._refused and now >= self._report_at:
            self._report_at = now + REPORT_SECONDS
            self._report(dict(self._refused))
            self._refused.clear()
        if self._open or self._refused:
            self._watch(loop)
