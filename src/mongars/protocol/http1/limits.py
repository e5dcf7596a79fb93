"""Limits on one connection before its request has been authenticated."""

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
    """Bounds of the connections of one server."""

    connections: int = 4096
    """Open at once; idle ones are closed for new ones, then new ones get 503."""
    head_bytes: int = 32_768
    """Request line and header fields, or the trailer fields, of one request."""
    fields: int = 100
    """Header fields, or trailer fields, of one request."""
    head_seconds: float = 15.0
    """Seconds from the opening of a connection, or the first byte of a later request, to the end of the headers."""
    linger_bytes: int = 64 << 20
    linger_seconds: float = 10.0
    """How many bytes, and for how many seconds, a request is read and discarded after a response that was sent
    before the request was complete, so that the client can read that response."""
    unread_bytes: int = 65_536
    """A connection stays open after such a response if at most this many bytes of the request can still follow."""
    pipelined: int = 32
    """The most requests on a connection that wait for the response to an earlier one (HTTP pipelining)."""
    hosts: frozenset[str] = frozenset()
    """Names accepted in `Host`, lower case, without a port; empty: any well-formed one."""


def check_host(values: list[bytes], *, version: Callable[[], str], allowed: frozenset[str]) -> None:
    """Raise `RefusedRequest` unless the `Host` fields of a request are what RFC 9112 section 3.2 asks for.

    `allowed` are the only names accepted, if there are any.
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
