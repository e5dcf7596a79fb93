"""An aiohttp connector that does not reuse a connection on which unexpected bytes have arrived."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakSet

import aiohttp

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace


@dataclass(slots=True)
class ConnectionUse:
    """Whether a request was sent on a connection that an earlier request had used.

    The sender of a request puts one into the context variable `CONNECTION_USE`; `CleanConnector` then sets `reused`.
    """

    reused: bool = False


CONNECTION_USE: ContextVar[ConnectionUse] = ContextVar("use")
"""Set by the sender before a request; the connector then sets `reused`. Cheaper than aiohttp's tracing."""


class CleanConnector(aiohttp.TCPConnector):
    """aiohttp connector that reuses a connection only if the server has sent no bytes beyond its responses on it.

    aiohttp would read such bytes as the response to the next request, and every later response as that of the request
    after it.
    """

    def __init__(self, *, keepalive_timeout: float) -> None:
        """Idle connections are closed after `keepalive_timeout` seconds; the number of connections is not limited."""
        super().__init__(limit=0, keepalive_timeout=keepalive_timeout)
        self._used: WeakSet[ResponseHandler] = WeakSet()

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 (aiohttp's own signature)
    ) -> Connection:
        """A connection without unread bytes, new or reused; overrides aiohttp's method.

        Sets `reused` of the `ConnectionUse` that the caller must have put into `CONNECTION_USE`.
        """
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if protocol is None:
                return connection
            if not protocol.should_close:
                CONNECTION_USE.get().reused = protocol in self._used
                self._used.add(protocol)
                return connection
            connection.close()
