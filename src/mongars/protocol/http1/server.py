"""uvicorn's HTTP/1.1 protocol with bounds on what a client may send before it is authenticated.

```
opened ──► head ──► answering ──► idle ──► head …          due: head_seconds, none, keep-alive
             │          └─ response complete, body is not ─► drained, or lingering
             └─ refused ─► lingering ─► closed             due: linger_seconds
```
Lingering (RFC 9112, section 9.6): after the response the sending direction is shut down, and what the client
still sends is read and discarded. If the socket were closed at once, the kernel would answer further bytes with
a reset, which deletes the response from the client's buffer before the client has read it.

The parser buffers a header field until it is complete. So bytes are counted here as they arrive: the bytes
since the parser's last callback are those it buffers.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mongars.protocol.http1.limits import check_host
from mongars.protocol.http1.refused_request import RefusedRequest

if TYPE_CHECKING:
    import asyncio

    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from mongars.protocol.http1.connections import Connections

_HOP = (b"upgrade", b"connection")
_INVALID = "This is not a valid HTTP request."
_REQUEST_LINE = re.compile(
    rb"(?:\r?\n)*(?P<method>[A-Za-z0-9!#$%&'*+.^_`|~-]{1,40}) (?P<target>[!-~]+) HTTP/[0-9]\.[0-9]\r?\n"
)
"""A request line (RFC 9112, section 3), for the requests that the parser gives up before it has read the line."""


class GuardedHttp(HttpToolsProtocol):
    """One HTTP/1.1 connection of a uvicorn server, with limits on what a client may send before it is authenticated.

    uvicorn creates one for each connection, from the subclass that `guarded` makes for one server.
    """

    guard: ClassVar[Connections]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.due = math.inf
        self.url = b""  # of the current request; empty before the first
        self._first = True
        self._unanswered = 0  # requests whose head is complete and whose response is not
        self._head_started = False  # the head of a request has begun and is not complete
        self._in_head = True  # also between two requests
        self._upgrading = False
        self._progress = False
        self._between = False  # the next request begins with the bytes being parsed
        self._at_start = False  # the current request began with the bytes being parsed
        self._held = 0  # bytes received since the last callback of the parser
        self._trailers = 0
        self._keep_alive_after_body = False
        self._lingering = False
        self._discarded = 0
        self._refusal: RefusedRequest | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Start the time limit for the first request head, or refuse the new connection if too many are open.

        The limit is `HttpLimits.head_seconds`. A refused connection is answered with 503, or closed at once (see
        `Connections.admit`).
        """
        super().connection_made(transport)
        self._outgoing = _Outgoing(self)
        self.due = self.loop.time() + self.guard.limits.head_seconds
        admitted = self.guard.admit(self, self.connections, self.loop)
        if admitted is None:
            transport.abort()
        elif not admitted:
            self._reply(
                RefusedRequest(503, "All connections of this server are in use; try again.")
            )

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop tracking the connection, which has been closed."""
        self.guard.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse bytes from the client; a request that is invalid or exceeds a limit is refused.

        It is answered with 400, 414, 431 or 501, and the connection is closed (see `_refuse`).
        """
        if self._lingering:
            self._discard(len(data))
            return
        self._progress = False
        self._between = self._in_head and not self._head_started
        self._at_start = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgraded(data[upgrade.args[0] :])
        except httptools.HttpParserInvalidMethodError:
            self._refuse(self._unknown_method(data))
        except httptools.HttpParserError:
            self._refuse(self._refusal or RefusedRequest(400, _INVALID))
        else:
            if self._progress:
                self._held = 0
                if not self._in_head:
                    self.guard.receiving.setdefault(self)
                return
            self._held += len(data)
            if self._held > self.guard.limits.head_bytes:
                self._refuse(self._too_large())

    def eof_received(self) -> None:
        """Do nothing when the client has closed its sending direction: asyncio then closes the connection."""

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        """Start the time limit for the head of a new request, whose first byte has arrived: `HttpLimits.head_seconds`.

        Not for the connection's first request, for which it runs since the connection was opened, nor while another
        request is being answered.
        """
        super().on_message_begin()
        self._progress = self._head_started = True
        self._at_start, self._between = self._between, False
        self._trailers = 0
        if self._first:
            self._first = False
        elif self._resting:
            self.due = self.loop.time() + self.guard.limits.head_seconds

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header field, or count a trailer field (one after the body).

        Raises `RefusedRequest` if there are more of them than `HttpLimits.fields`.
        """
        if not self._in_head:
            self._trailers += 1
            if self._trailers > self.guard.limits.fields:
                raise self._noted(self._too_large())
            return
        if len(self.headers) >= self.guard.limits.fields:
            raise self._noted(self._too_large())
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Check the complete head (request line and headers) of a request, and start the application for it.

        Raises `RefusedRequest` if the head violates a limit or rule, or too many requests wait for a response.
        """
        parser = self.parser
        body = self._check_head()
        self._progress = True
        self._head_started = False
        if parser.should_upgrade():
            self._upgrading = True
            self.scope["method"] = method = parser.get_method().decode("ascii")
            if method == "CONNECT":
                raise self._noted(RefusedRequest(400, "This server is no proxy."))
            return
        if len(self.pipeline) >= self.guard.limits.pipelined:
            raise self._noted(
                RefusedRequest(400, "Too many requests were sent before their responses.")
            )
        super().on_headers_complete()  # raises for an impossible URL, so nothing is noted before
        self._in_head = False
        self._keep_alive_after_body = False
        self._unanswered += 1
        self.due = math.inf
        self.guard.idle.pop(self, None)
        cycle = self.cycle
        cycle.transport = self._outgoing  # type: ignore[assignment] # all that it uses
        if body > self.guard.limits.unread_bytes and cycle.keep_alive:
            cycle.keep_alive = False
            self._keep_alive_after_body = True

    def on_body(self, body: bytes) -> None:
        """Pass a part of the request body to the application."""
        self._progress = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the body and trailers of the current request have arrived, so that the next one may begin."""
        self._progress = True
        if self._upgrading:
            return
        self._in_head = True
        self.guard.receiving.pop(self, None)
        if self._keep_alive_after_body:
            self._keep_alive_after_body = False
            self.cycle.keep_alive = True
        super().on_message_complete()
        if self._resting:  # its response was early
            self._rest()

    # Callbacks of the response

    def on_response_complete(self) -> None:
        """After a complete response, start the next request that has arrived already, or wait for one."""
        self.server_state.total_requests += 1
        self._unanswered -= 1
        if self._lingering or self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        else:
            self._rest()

    def close_after_response(self) -> None:
        """Close the connection after a response.

        If the client is still sending, the rest is first read and discarded, so that the client can read the response:
        for up to `HttpLimits.linger_seconds` and `linger_bytes`. With TLS, the connection is closed at once.
        """
        if self._lingering or self.transport.is_closing():
            return
        if self._in_head:
            self.transport.close()
        else:
            self._linger()

    def shutdown(self) -> None:
        """Close the connection because the server shuts down, but not before its current response is complete."""
        self._keep_alive_after_body = False
        if self._lingering:
            self.transport.close()
        else:
            super().shutdown()

    def expire(self) -> None:
        """Close the connection because its time limit has passed; an incomplete request head is answered with 408."""
        if self._head_started and not self._lingering and not self.transport.is_closing():
            self.guard.count("408 before the request was read")
            self._reply(RefusedRequest(408, "The request head did not arrive in time."))
        else:
            self.evict()

    def evict(self) -> None:
        """Close the connection so that a new one can be accepted, or because a time limit has passed.

        Pending bytes are still sent if no request is being answered and the connection was not closing already; else
        they are lost.
        """
        if self._lingering or self.transport.is_closing() or not self._resting:
            self.transport.abort()
        else:
            self.due = self.loop.time() + self.guard.limits.linger_seconds
            self.transport.close()

    @property
    def _resting(self) -> bool:
        """Whether no request of this connection is being answered by the application."""
        return self._unanswered == 0

    def _rest(self) -> None:
        now, limits = self.loop.time(), self.guard.limits
        self.due = now + (self.timeout_keep_alive if self._in_head else limits.linger_seconds)
        self.guard.idle[self] = None

    def _noted(self, refusal: RefusedRequest) -> RefusedRequest:
        """Store `refusal` and return it, for the caller to raise.

        It is stored because the HTTP parser replaces exceptions that its callbacks raise by its own.
        """
        self._refusal = refusal
        return refusal

    def _unknown_method(self, data: bytes) -> RefusedRequest:
        """The refusal of a request whose method the parser does not know; `data`: the bytes being parsed.

        501 if the request begins with them and its request line is whole, whose path is then noted for the format of
        the response; else 400.
        """
        line = _REQUEST_LINE.match(data) if self._at_start else None
        if line is None:
            return RefusedRequest(400, _INVALID)
        self.url = line["target"]
        method = line["method"].decode("ascii")
        return RefusedRequest(501, f"The method {method!r} is not supported.")

    def _too_large(self) -> RefusedRequest:
        limits = self.guard.limits
        if self._in_head and not self.headers:
            return RefusedRequest(
                414, f"The request line is larger than {limits.head_bytes} bytes."
            )
        what = "header" if self._in_head else "trailer"
        detail = (
            f"The {what} fields are more than {limits.fields} or {limits.head_bytes} bytes in all."
        )
        return RefusedRequest(431, detail)

    def _check_head(self) -> float:
        """Check size and `Host` of a request head; returns how many bytes of body can follow at most.

        That is the `Content-Length`, infinite for a chunked body. Raises `RefusedRequest` if the head violates a limit
        or rule.
        """
        size, body = len(self.url), 0.0
        hosts: list[bytes] = []
        for name, value in self.headers:
            size += len(name) + len(value)
            if name == b"host":
                hosts.append(value)
            elif name == b"content-length":
                body = int(value)
            elif name == b"transfer-encoding":
                body = math.inf
        if size > self.guard.limits.head_bytes:
            raise self._noted(self._too_large())
        if self.guard.limits.hosts and not self.url.startswith((b"/", b"*")):
            raise self._noted(
                RefusedRequest(400, "Name the host in the Host header, not before the path.")
            )
        try:
            check_host(hosts, version=self.parser.get_http_version, allowed=self.guard.limits.hosts)
        except RefusedRequest as refusal:
            raise self._noted(refusal) from None
        return body

    def _upgraded(self, rest: bytes) -> None:
        """Handle a request with an `Upgrade` header; `rest`: the bytes received after its head.

        A WebSocket request is handed over to uvicorn, unless another request is being answered or `rest` is not empty.
        Otherwise the header is ignored, and the connection closed after the response.
        """
        self._upgrading = False
        websocket = self.scope["method"] == "GET" and self._should_upgrade()
        if websocket and self._resting and not rest:
            self.guard.forget(self)
            self.handle_websocket_upgrade()
            return
        # RFC 9110, section 7.8: the offer may be ignored. The parser has skipped the body.
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.scope["method"].encode(), self.url, version)]
        lines += [b"%s: %s" % pair for pair in self.headers if pair[0] not in _HOP]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([*lines, b"connection: close", b"\r\n"]) + rest)

    def _refuse(self, refusal: RefusedRequest) -> None:
        """Send the response of `refusal` and close the connection.

        It is closed without a response if the client could take that for the response to an earlier request.
        """
        self.guard.count(f"{refusal.status} before the request was read")
        may_reply = True
        if not self._resting:
            cycle = self.cycle
            may_reply = not (self._in_head or self.pipeline or cycle.response_started)
            cycle.disconnected = True
            cycle.message_event.set()
        elif not self._in_head:  # the request has been answered already
            may_reply = False
        if may_reply:
            self._reply(refusal)
        else:
            self.transport.close()

    def _reply(self, refusal: RefusedRequest) -> None:
        headers = self.server_state.default_headers
        path = path_of(self.url)
        self.transport.write(refusal.response(headers, path=path, error_body=self.guard.error_body))
        self._linger()

    def _linger(self) -> None:
        if not self.transport.can_write_eof():  # TLS
            self.transport.close()
            return
        self._lingering = True
        self.due = self.loop.time() + self.guard.limits.linger_seconds
        self.guard.idle[self] = None
        self.flow.resume_reading()
        self.transport.write_eof()

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > self.guard.limits.linger_bytes:
            self.transport.abort()


class _Outgoing:
    """The transport of a connection as uvicorn uses it to send a response: write, close, and whether it is closing.

    `close` first reads and discards what the client is still sending.
    """

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, protocol: GuardedHttp) -> None:
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing
        self.close = protocol.close_after_response


def path_of(target: bytes) -> str:
    """The path in the target of a request line, without a query; a host before it is left out. Empty if unknown."""
    whole = target.partition(b"?")[0]
    scheme, _, rest = whole.partition(b"://")
    if rest and not scheme.startswith(b"/"):
        whole = b"/" + rest.partition(b"/")[2]
    return whole.decode("latin-1")


def guarded(connections: Connections) -> type[GuardedHttp]:
    """The protocol class to pass to uvicorn for one server, whose connections `connections` tracks and limits.

    It is a new subclass of `GuardedHttp`; use one for each server.
    """
    return type("GuardedHttp", (GuardedHttp,), {"guard": connections})
