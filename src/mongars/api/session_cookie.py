"""The session cookie: a login token that a browser sends by itself.

A browser sends a cookie with every request to its host, also with those that a page of another site
causes. So the cookie is accepted for a request that changes something, or for a WebSocket handshake, only
if the `Origin` header names this server itself. That prevents cross-site request forgery (CSRF) and
cross-site WebSocket hijacking, as OWASP describes them. A credential in a header needs no such check:
browsers never add one by themselves. Credentials in a URL are not read at all: URLs are logged.

No route sets the cookie yet, and no route is a WebSocket yet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mongars.core.errors import Forbidden
from mongars.core.urls import web_origin

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

SESSION_COOKIE = "mongars_session"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that change nothing (RFC 9110, section 9.2.1), so the cookie needs no check of `Origin`.

CORS keeps their responses from pages of other origins.
"""
_LONGEST_SHOWN = 200


@dataclass(frozen=True, slots=True)
class SessionToken:
    """A login token (JWT), not verified yet, from the session cookie of a request.

    The header `Origin` of the request is this server's own. Only GET, HEAD, OPTIONS and TRACE requests that are no
    WebSocket handshake may have another or none.
    """

    value: str = field(repr=False)


def session_token_of(connection: HTTPConnection) -> SessionToken | None:
    """The login token in the session cookie of a request or WebSocket handshake; None without a cookie.

    Raises `Forbidden` if the header `Origin` is absent or not this server's own; but GET, HEAD, OPTIONS and TRACE
    requests need no such header, unless they are a WebSocket handshake.
    """
    value = connection.cookies.get(SESSION_COOKIE)
    if not value:
        return None
    if connection.scope["type"] == "websocket":
        _check_origin(connection, "A WebSocket handshake")
    elif connection.scope["method"] not in _SAFE_METHODS:
        _check_origin(connection, f"A {connection.scope['method']} request")
    return SessionToken(value)


def _check_origin(connection: HTTPConnection, what: str) -> None:
    origin = connection.headers.get("origin")
    rule = f"{what} with the cookie {SESSION_COOKIE} must name this server's own origin"
    instead = "Or send: Authorization: Bearer <API key or token>"
    if origin is None:
        detail = f"The Origin header is missing. {rule}. {instead}"
        raise Forbidden(detail)
    if not _is_own(origin, connection):
        detail = f"The Origin header is {origin[:_LONGEST_SHOWN]!r}. {rule}. {instead}"
        raise Forbidden(detail)


def _is_own(origin: str, connection: HTTPConnection) -> bool:
    """Whether `origin` is this server's own, according to the `Host` header and the scheme of the connection.

    Behind a proxy that ends TLS, the connection is plain HTTP while the page's origin is `https://`. So an
    `https` origin of the same host is accepted on a plain connection; `http` on a TLS connection is not.
    """
    encrypted = connection.scope["scheme"] in {"https", "wss"}
    schemes = ("https",) if encrypted else ("http", "https")
    host = connection.headers.get("host", "")
    return origin in {own for scheme in schemes if (own := _origin(scheme, host))}


def _origin(scheme: str, host: str) -> str | None:
    try:
        return web_origin(f"{scheme}://{host}")
    except ValueError:  # no usable host
        return None
