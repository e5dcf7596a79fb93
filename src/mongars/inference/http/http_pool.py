"""Outgoing HTTP: the connection pool, and the conversion of aiohttp's exceptions to `WorldError`s.

`post` has no total timeout: callers set deadlines with `asyncio.timeout`. Only connecting has a
timeout of its own, so that a slow response is not reported as an unreachable host.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Self

import aiohttp

from mongars.core.errors import EndpointUnreachable, InvalidAnswer, WorldError
from mongars.inference.events import split_label
from mongars.inference.http.connector import CONNECTION_USE, CleanConnector, ConnectionUse
from mongars.inference.http.tls import TlsContexts
from mongars.inference.retry.failures import ConnectFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from mongars.inference.config import InferenceConfig

KEEPALIVE_SECONDS = 4.0
"""Seconds after which idle connections are closed: less than the usual timeout of servers (uvicorn: 5 s)."""

IDLE_CLOSE_SECONDS = 0.25
"""If a reused connection breaks within this many seconds of sending, the server had closed it as idle."""

MAX_BODY_BYTES = 16 * 1024 * 1024
DRAIN_SECONDS = 0.25
"""Seconds to wait for the end of the body after a complete answer; then the connection is closed."""


class Blocks:
    """Async iterator over the bytes of a response body, in blocks as they arrive.

    Raises `EndpointUnreachable` if the connection breaks before the end of the body.
    """

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content

    @property
    def ended(self) -> bool:
        """Whether the body has been read to its end."""
        return self._content.at_eof()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            block = await self._content.readany()
        except aiohttp.ClientError as exc:
            detail = f"The connection broke while the response was read ({type(exc).__name__})."
            raise EndpointUnreachable(detail) from exc
        if not block:
            raise StopAsyncIteration
        return block


class UpstreamResponse:
    """The response of a model server, created when its status and headers have arrived; the body is in `blocks`.

    `status`: the HTTP status. `media_type`: the content type without parameters. `headers`: with lower-case names.
    `reusable`: False at first; the reader sets it to True to keep the connection open for another request.
    """

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.media_type = response.content_type
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self.blocks = Blocks(response.content)
        self.reusable = False
        """Set this to True once the answer is complete, so that the connection can be used for another request."""

    async def body(self) -> bytes:
        """Read and return the whole body; it can be read only once.

        Raises `InvalidAnswer` if it has more than `MAX_BODY_BYTES` (16 MiB), or `EndpointUnreachable` if the connection
        breaks.
        """
        parts: list[bytes] = []
        size = 0
        async for block in self.blocks:
            parts.append(block)
            size += len(block)
            if size > MAX_BODY_BYTES:
                detail = f"The response is larger than {MAX_BODY_BYTES} bytes."
                raise InvalidAnswer(detail)
        return b"".join(parts)


class HttpPool:
    """The HTTP connections of this process to model servers: Ray endpoints and Ollama.

    `RAY_CLIENT_MAX_KEEPALIVE` bounds how many connections per server stay open between requests: of those in use at the
    same time, that many may be reused, the others are closed after use. The number of connections in use is bounded by
    each provider's queue and not here, so that waiting for a connection is never counted as a server's failure.

    If a server closes an idle connection just when it is reused, the request is sent again on another connection.
    """

    def __init__(self, config: InferenceConfig) -> None:
        """Read the certificates; open no connection. Raises `ConfigurationError` for an invalid certificate file."""
        self._tls = TlsContexts(config)
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=config.connect_timeout)
        self._max_keepalive = config.max_keepalive
        self._kept: Counter[str] = Counter()
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str]
    ) -> AsyncIterator[UpstreamResponse]:
        """Context manager that POSTs a JSON body; entered when status and headers of the response have arrived.

        `headers`: sent besides `content-type`. The status may be any; redirects are not followed. Entering raises
        `ConnectFailed` if no connection was established, `EndpointUnreachable` if it breaks before the response, or
        `InvalidAnswer` if the response is not HTTP. There is no timeout, except for connecting. Exit closes the
        connection, unless `reusable` of the response was set and its body ends within `DRAIN_SECONDS` (0.25 s).
        """
        with self._kept_connection(url) as connection:
            sent = {"content-type": "application/json", **headers, **connection}
            received = await self._send("POST", url, body=body, headers=sent)
            response = UpstreamResponse(received)
            try:
                yield response
                if response.reusable:
                    await _read_to_end(response)
            finally:
                received.close()

    async def get(self, url: str, *, seconds: float) -> tuple[int, bytes]:
        """GET `url`, and return status and body of the response, which must be complete within `seconds`.

        Redirects are not followed. Raises `ConnectFailed` if no connection was established, `EndpointUnreachable` if it
        breaks or the time passes, or `InvalidAnswer` if the response is not HTTP or larger than `MAX_BODY_BYTES` (16
        MiB).
        """
        try:
            with self._kept_connection(url) as connection:
                async with asyncio.timeout(seconds):
                    response = await self._send("GET", url, body=None, headers=connection)
                    try:
                        return response.status, await UpstreamResponse(response).body()
                    finally:
                        response.close()
        except TimeoutError as exc:
            detail = f"{split_label(url)[0]} did not respond within {seconds:g} s."
            raise EndpointUnreachable(detail) from exc

    async def aclose(self) -> None:
        """Close all connections; requests in flight fail. Safe to call twice. A later request opens new connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    @contextmanager
    def _kept_connection(self, url: str) -> Iterator[dict[str, str]]:
        """Context manager around one request; yields the headers that decide whether its connection stays open.

        They are empty if it stays open after the response, else `connection: close`. Of the connections to one server
        that are in use at the same time, `RAY_CLIENT_MAX_KEEPALIVE` may stay open.
        """
        host = split_label(url)[0]
        keep = self._kept[host] < self._max_keepalive
        self._kept[host] += keep
        try:
            yield {} if keep else {"connection": "close"}
        finally:
            self._kept[host] -= keep

    async def _send(
        self, method: str, url: str, *, body: bytes | None, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        host = split_label(url)[0]
        retries_left = self._max_keepalive
        loop = asyncio.get_running_loop()
        while True:
            sent_at = loop.time()
            use = ConnectionUse()
            CONNECTION_USE.set(use)
            try:
                return await self._opened().request(
                    method,
                    url,
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                    ssl=self._tls.context(host),
                )
            except (aiohttp.ClientError, OSError, ValueError) as exc:
                retries_left -= 1
                at_once = loop.time() - sent_at < IDLE_CLOSE_SECONDS
                if use.reused and at_once and isinstance(exc, _CLOSED) and retries_left >= 0:
                    continue
                raise self._tls.failure(exc, host) or self._translated(exc, host) from exc

    def _translated(self, exc: Exception, host: str) -> WorldError:
        name = type(exc).__name__
        connected = not isinstance(exc, _NO_CONNECTION)
        hint = self._tls.hint(host) if connected or isinstance(exc.__cause__, _RESET) else ""
        if not connected:
            return ConnectFailed(f"No connection to {host} ({name}).{hint}")
        if isinstance(exc, aiohttp.ClientConnectionError | OSError):
            detail = f"{host} closed the connection before it responded ({name}).{hint}"
            return EndpointUnreachable(detail)
        return InvalidAnswer(f"{host} did not respond in HTTP ({name}).")

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=CleanConnector(keepalive_timeout=KEEPALIVE_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"user-agent": "monGARS", "accept-encoding": "identity"},
                timeout=self._timeout,
                trust_env=False,
            )
        return self._session


async def _read_to_end(response: UpstreamResponse) -> None:
    """Read the end of a complete response, so that its connection can be reused.

    Returns after `DRAIN_SECONDS` (0.25 s) or when the connection breaks, even if the end has not arrived.
    """
    if response.blocks.ended:
        return
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            async for _ in response.blocks:
                pass
    except (TimeoutError, EndpointUnreachable):
        return  # not worth a longer wait: the caller closes the connection


_CLOSED = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)
_RESET = (ConnectionResetError, ConnectionAbortedError)
_NO_CONNECTION = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ServerFingerprintMismatch,
    aiohttp.InvalidURL,
)
