"""Check all ports before any process starts, so that a port in use is reported at once."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from mongars.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class PortUse:
    """A TCP port to listen on: `what` (such as `the API`) listens there, on the address `host`.

    `setting` is the name of the option or variable that changes the port, for messages.
    """

    what: str
    host: str
    port: int
    setting: str


def check_ports(uses: Sequence[PortUse]) -> None:
    """Check that every port in `uses` is free and used once; holds none of them afterwards.

    Raises `ConfigurationError` if not; the message has a line for each fault, with the setting that changes the port.
    """
    complaints = _duplicates(uses) + [text for use in uses if (text := _complaint(use))]
    if complaints:
        raise ConfigurationError("\n".join(complaints))


def _duplicates(uses: Sequence[PortUse]) -> list[str]:
    first: dict[int, PortUse] = {}
    complaints = []
    for use in uses:
        other = first.setdefault(use.port, use)
        if other is not use:
            complaints.append(
                f"Port {use.port} is meant for both {other.what} and {use.what}:"
                f" change {other.setting} or {use.setting}."
            )
    return complaints


def _complaint(use: PortUse) -> str | None:
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            use.host, use.port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind) as candidate:
            # As servers do: a connection in the state TIME_WAIT does not block the port.
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            candidate.bind(address)
            candidate.listen(1)
    except OSError as error:
        return _explain(use, error)
    return None


def _explain(use: PortUse, error: OSError) -> str:
    place = f"Port {use.port} on {use.host}, wanted for {use.what}"
    if error.errno == errno.EADDRINUSE:
        return f"{place}, is taken{_by(use.port)}. Stop that, or choose another with {use.setting}."
    if error.errno == errno.EACCES:
        return f"{place}, needs more rights. Choose one above 1023 with {use.setting}."
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return f"{use.host!r} is no address of this machine. Set MONGARS_HOST to one, or 127.0.0.1."
    return f"{place}, cannot be used: {error.strerror}. Choose another with {use.setting}."


def _by(port: int) -> str:
    """The process that listens on the port, as text for a message: ` by NAME (pid ID)`; empty if unknown."""
    try:
        for connection in psutil.net_connections(kind="inet"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr[1:2] == (port,)
            if listens and connection.pid:
                process = psutil.Process(connection.pid)
                return f" by {process.name()} (pid {process.pid})"
    except psutil.Error:
        pass
    return ""
