"""The open connections of one server: limits their number, and closes those whose time limit has passed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

from mongars.protocol.http1.refused_request import openai_error

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sized

    from mongars.protocol.http1.limits import HttpLimits
    from mongars.protocol.http1.refused_request import ErrorBody

    ReportCounts = Callable[[Mapping[str, int]], None]

SWEEP_SECONDS = 1.0
REPORT_SECONDS = 60.0
REFUSING = 64
"""Number of connections beyond the limit that are answered with 503; further ones are closed at once."""


class Connection(Protocol):
    """The part of an HTTP connection by which `Connections` closes it.

    `due`: time of the event loop, in seconds, at which to close it; infinite while a request is being answered.
    """

    due: float
    """Event-loop time at which the connection is closed; infinite while a request is being answered."""

    def expire(self) -> None:
        """Close the connection because the time `due` has passed. Called each second until it is closed."""
        ...

    def evict(self) -> None:
        """Close the connection so that a new one can be accepted in its place."""
        ...


class Connections:
    """The open connections of one server: accepts or refuses new ones, and closes those whose time limit has passed.

    `limits`: how many may be open. `report` is called with the number of refused connections and requests for each
    reason, at most once in `REPORT_SECONDS` (60 s), because unauthenticated clients can cause any number of refusals.
    """

    def __init__(
        self, limits: HttpLimits, report: ReportCounts, *, error_body: ErrorBody = openai_error
    ) -> None:
        """`error_body` makes the JSON body of a refusal from the path of the request, empty if unknown, and the error."""
        self.limits = limits
        self.error_body = error_body
        self.idle: dict[Connection, None] = {}
        """Connections on which no request is being answered, oldest first."""
        self.receiving: dict[Connection, None] = {}
        """Connections whose request body is incomplete, oldest first."""
        self._open: set[Connection] = set()
        self._report = report
        self._refused: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._report_at = 0.0

    def admit(
        self, connection: Connection, connections: Sized, loop: asyncio.AbstractEventLoop
    ) -> bool | None:
        """Decide on a new connection: True accepts it, False answers it with 503, None closes it without an answer.

        `connections`: all connections of the server, this one included. At their limit, the oldest idle connection is
        closed and the new one accepted; without an idle one, the oldest whose request body is incomplete is closed
        instead. Without either, the result is False for up to `REFUSING` (64) connections beyond the limit, and None
        for more. `loop` runs the check of time limits.
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
        """Stop tracking a connection that is closed or was upgraded to another protocol."""
        self.idle.pop(connection, None)
        self.receiving.pop(connection, None)
        self._open.discard(connection)

    def count(self, reason: str) -> None:
        """Count one refused connection or request with this reason, a text, for the next call of `report`."""
        self._refused[reason] += 1

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Schedule the next check for connections whose time limit has passed, in a second, unless one is scheduled."""
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
