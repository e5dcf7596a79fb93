"""The open connections of one server: how many there may be, and which of them are overdue."""

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
    """One connection, as far as it must be closed from outside."""

    due: float
    """Loop time at which it is closed; infinite while a request is being answered."""

    def expire(self) -> None:
        """End it because it is due; called again while it is still there."""
        ...

    def evict(self) -> None:
        """End it because its place is needed."""
        ...


class Connections:
    """Admits connections and closes them when they are due.

    `report` is given the refusals by reason, at most once in `REPORT_SECONDS`: clients
    without a key can cause any number of them.
    """

    def __init__(self, limits: HttpLimits, report: ReportCounts) -> None:
        self.limits = limits
        self.idle: dict[Connection, None] = {}
        """Connections without a request being answered, oldest first."""
        self.receiving: dict[Connection, None] = {}
        """Those whose request body is incomplete, oldest first."""
        self._open: set[Connection] = set()
        self._report = report
        self._refused: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._report_at = 0.0

    def admit(
        self, connection: Connection, connections: Sized, loop: asyncio.AbstractEventLoop
    ) -> bool | None:
        """Whether there is a place for it, if need be another's; None: not even for a reply.

        The oldest idle connection makes way, else the oldest that has not sent its whole request.
        `connections` are all of the server, this one included.
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
        """It is closed, or no HTTP connection any more."""
        self.idle.pop(connection, None)
        self.receiving.pop(connection, None)
        self._open.discard(connection)

    def count(self, reason: str) -> None:
        """Note a refusal for the next report."""
        self._refused[reason] += 1

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look for overdue connections from now on, until there is none and nothing to report."""
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
