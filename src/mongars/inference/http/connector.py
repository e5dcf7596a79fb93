"""Connections that are used again: only where nothing unasked has arrived on them, and not unnoticed."""

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
    """What a request went out on."""

    reused: bool = False


CONNECTION_USE: ContextVar[ConnectionUse] = ContextVar("use")
"""Set it before a request to learn of its connection. aiohttp's tracing tells it too, at a price."""


class CleanConnector(aiohttp.TCPConnector):
    """A server that sends more than it announced must not answer the next request with it.

    aiohttp would take those bytes for the next answer, and each later answer for the one after.
    """

    def __init__(self, *, keepalive_timeout: float) -> None:
        """As many connections as are asked for; idle ones are closed after so many seconds."""
        super().__init__(limit=0, keepalive_timeout=keepalive_timeout)
        self._used: WeakSet[ResponseHandler] = WeakSet()

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 (aiohttp's own signature)
    ) -> Connection:
        """A connection with nothing to read on it."""
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
