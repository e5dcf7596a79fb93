"""Limits on one connection and its requests before they are authenticated."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongars.protocol.http1.refused_request import RefusedRequest

if TYPE_CHECKING:
    from collections.abc import Callable

_WITHOUT_HOST = {"0.9", "1.0"}
_HOST = re.compile(
    rb"(?:[a-z0-9._~!$&'()*+,;=-]|%[0-9a-f]{2})+(?::[0-9]{0,5})?"
    rb"|\[[0-9a-f:.]+(?:%25[a-z0-9._~-]+)?\](?::[0-9]{0,5})?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """Limits on the connections of one HTTP server and on requests before they are authenticated.

    `connections` open at once, `head_bytes` and `fields` of a request head, `head_seconds` until it is complete,
    `pipelined` requests that wait on one connection; what is read of a request after an early response
    (`linger_bytes`, `linger_seconds`, `unread_bytes`); and `hosts`, the host names accepted (empty: any).
    """

    connections: int = 4096
    """Maximum number of open connections; beyond it, idle ones are closed, and then new ones get 503."""
    head_bytes: int = 32_768
    """Maximum bytes of the request line and header fields, or of the trailer fields, of one request."""
    fields: int = 100
    """Maximum number of header fields, or of trailer fields, of one request."""
    head_seconds: float = 15.0
    """Time limit for the request head, from opening the connection or the first byte of a later request."""
    linger_bytes: int = 64 << 20
    linger_seconds: float = 10.0
    """After an early response, up to `linger_bytes` of the rest of the request are read and discarded for up to
    `linger_seconds`, so that the client can read the response (an *early* response is sent before the request is
    complete).
    """
    unread_bytes: int = 65_536
    """After an early response, a connection stays open if at most this many bytes of the request can follow."""
    pipelined: int = 32
    """Maximum number of requests on one connection that wait for the response to an earlier one."""
    hosts: frozenset[str] = frozenset()
    """Host names accepted in `Host`, lower case, without a port; empty: any well-formed name."""


def check_host(values: list[bytes], *, version: Callable[[], str], allowed: frozenset[str]) -> None:
    """Raise `RefusedRequest` (400) unless a request has exactly one valid `Host` header (RFC 9112, section 3.2).

    `values`: the values of all its `Host` headers. `version`: returns the HTTP version, such as `1.1`; before 1.1, the
    header may be absent if `allowed` is empty. `allowed`: the only host names accepted, lower case and without a port,
    compared without regard to case and port in the header; empty for any name.
    """
    if len(values) > 1:
        raise RefusedRequest(400, "The request has more than one Host header.")
    if not values:
        if version() not in _WITHOUT_HOST or allowed:
            raise RefusedRequest(400, "The request has no Host header.")
        return
    host = values[0]
    if not _HOST.fullmatch(host):
        raise RefusedRequest(400, "The Host header is not a host name with an optional port.")
    if allowed and _name(host) not in allowed:
        raise RefusedRequest(400, "The Host header names a host this server does not answer for.")


def _name(host: bytes) -> str:
    name = host if host.endswith(b"]") else host.rpartition(b":")[0] or host
    return name.decode("ascii").lower()
