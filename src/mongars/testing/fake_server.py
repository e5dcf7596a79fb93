"""A real HTTP server on a loopback port that records its requests and how each connection ended."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from mongars.core.clock import SystemClock

if TYPE_CHECKING:
    import ssl

    from mongars.core.clock import Clock


@dataclass(slots=True, kw_only=True)
class Received:
    """One request that a `FakeServer` received, and the outcome of its response.

    `body` is its JSON object; `headers` has lower-case names. `connection` is the client's address and port; `at` (the
    arrival) and `left_at` are seconds of the server's monotonic clock. `left_at` is None unless the client closed the
    connection before the response was complete.
    """

    body: dict[str, Any]
    headers: dict[str, str]
    connection: tuple[str, int]
    at: float
    peer_left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the client has closed the connection before the response was complete."""
    left_at: float | None = None
    answered: bool = False
    """Whether the response was sent completely."""
    met: str = ""
    """The `kind` of the fault that was applied; empty on servers whose faults have no kind."""


class FakeServer:
    """An HTTP server on 127.0.0.1 that records its requests in `received`, in order; subclasses add the routes.

    As an asynchronous context manager it starts on entering and stops on leaving. It can be started again, on the same
    port.
    """

    def __init__(self, *, port: int = 0, clock: Clock | None = None) -> None:
        """`port` 0: a free port. `clock` None: the system's clock."""
        self.received: list[Received] = []
        self.clock: Clock = clock or SystemClock()
        self.tls: ssl.SSLContext | None = None
        """If set before `start`, the server uses `https://` with this context."""
        self._transports: list[asyncio.Transport] = []
        self._runner: web.AppRunner | None = None
        self._port = port
        self._stopping = False

    @property
    def base(self) -> str:
        """The server's base URL, `http://127.0.0.1:port` or, with TLS, `https://…`; a restart does not change it."""
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://127.0.0.1:{self._port}"

    @property
    def connections(self) -> int:
        """The number of different client connections on which recorded requests arrived."""
        return len({request.connection for request in self.received})

    @property
    def open_connections(self) -> int:
        """The number of client connections on which recorded requests arrived and that are still open."""
        return sum(not transport.is_closing() for transport in self._transports)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start listening; after `stop`, on the same port again. Raises `OSError` if the port is in use."""
        self._stopping = False
        app = web.Application()
        self.add_routes(app)
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1
        )
        await self._runner.setup()
        site = web.TCPSite(
            self._runner, "127.0.0.1", self._port, reuse_address=True, ssl_context=self.tls
        )
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close all connections and stop accepting new ones; the port stays the same for the next `start`."""
        self._stopping = True
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def add_routes(self, app: web.Application) -> None:
        """Add the server's routes to `app`; subclasses implement it."""
        raise NotImplementedError

    async def note(self, request: web.Request) -> Received:
        """Record a request in `received`; returns the record.

        Raises `ValueError` if its body is no JSON object, `ConnectionResetError` if the client is gone already.
        """
        transport = request.transport
        if transport is None:
            raise ConnectionResetError
        body = await request.json()
        if not isinstance(body, dict):
            detail = "no JSON object"
            raise ValueError(detail)  # noqa: TRY004 (the same as for no JSON at all)
        if transport not in self._transports:
            self._transports.append(transport)
        received = Received(
            body=body,
            headers={name.lower(): value for name, value in request.headers.items()},
            connection=transport.get_extra_info("peername")[:2],
            at=self.clock.monotonic(),
        )
        self.received.append(received)
        return received

    def left(self, received: Received) -> None:
        """Record that the client closed the connection of this request before the response was complete.

        Does nothing while this server stops, since it then closes the connections itself.
        """
        if not self._stopping:
            received.left_at = self.clock.monotonic()
            received.peer_left.set()


def reset(request: web.Request) -> None:
    """Break the connection of `request` with a TCP RST instead of a FIN, as a killed process behind a proxy does."""
    transport = request.transport
    if transport is None:
        return
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
