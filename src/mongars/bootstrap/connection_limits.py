"""How many connections the HTTP server of this process may hold, and the protocol class with that limit."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

from mongars.core.observe import Note
from mongars.protocol.http1.connections import Connections
from mongars.protocol.http1.limits import HttpLimits
from mongars.protocol.http1.refused_request import openai_error
from mongars.protocol.http1.server import guarded
from mongars.telemetry import names

if TYPE_CHECKING:
    from mongars.core.observe import Observer
    from mongars.protocol.http1.refused_request import ErrorBody
    from mongars.protocol.http1.server import GuardedHttp
    from mongars.settings import Settings

RESERVED = 160
"""File descriptors that are not for client connections: files, database, event loop, and refusals in progress."""
OWN_NAMES = ("127.0.0.1", "[::1]", "localhost")
MOST = 65_536
"""The highest limit of open files to set; some programs prepare for every descriptor they might open."""


def raise_descriptor_limit() -> int:
    """Raise this process's limit of open files (`RLIMIT_NOFILE`) to the hard limit, but not above `MOST` (65,536).

    Returns the limit that applies then; a higher one that was set before is kept, an unlimited one returned as `MOST`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return MOST if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def descriptor_advice(settings: Settings, available: int) -> str | None:
    """Advice for the operator if `available` file descriptors are too few for `MONGARS_MAX_CONNECTIONS`; else None.

    `available` is this process's limit of open files, as `raise_descriptor_limit` returns it.
    """
    wanted, upstream = settings.environment.max_connections, _upstream(settings)
    if connections_within(settings, available) >= wanted:
        return None
    return (
        f"the limit of open files is {available}: {connections_within(settings, available)}"
        f" connections instead of {wanted} (MONGARS_MAX_CONNECTIONS); for all of them raise it to"
        f" {wanted + upstream + RESERVED}: `ulimit -Hn`, LimitNOFILE= of systemd, or"
        " `ulimits: nofile` of Compose"
    )


def connections_within(settings: Settings, available: int) -> int:
    """How many client connections a process with `available` file descriptors can hold.

    Descriptors for model servers, the database and other files are subtracted. At least 16, at most
    `MONGARS_MAX_CONNECTIONS`.
    """
    room = available - RESERVED - _upstream(settings)
    return max(16, min(settings.environment.max_connections, room))


def guarded_protocol(
    settings: Settings,
    observer: Observer,
    *,
    hosts: tuple[str, ...] = (),
    error_body: ErrorBody = openai_error,
) -> type[GuardedHttp]:
    """A protocol class for uvicorn (its option `http`) that limits connections and the size of request heads.

    Raises this process's limit of open files. At most `MONGARS_MAX_CONNECTIONS` are open; if that limit stays too low
    for so many, fewer, and `observer` gets a log event. Beyond that, idle connections are closed, and if there are
    none, new ones get 503. `hosts` are the accepted values of the `Host` header (ignoring case), besides `localhost`
    and the loopback addresses; empty: any value is accepted.
    `error_body` makes the bodies of refusals, by default in OpenAI's format.
    """
    available = raise_descriptor_limit()
    advice = descriptor_advice(settings, available)
    if advice is not None:
        observer.observe(Note(log=names.HTTP_DESCRIPTORS, values={"detail": advice}))
    values = settings.environment
    limits = HttpLimits(
        connections=connections_within(settings, available),
        head_bytes=values.max_header_bytes,
        hosts=frozenset(host.lower() for host in (*hosts, *OWN_NAMES)) if hosts else frozenset(),
    )
    return guarded(
        Connections(
            limits,
            lambda refused: observer.observe(Note(log=names.HTTP_REFUSED, values=refused)),
            error_body=error_body,
        )
    )


def _upstream(settings: Settings) -> int:
    """The most file descriptors that connections to Ray Serve and to the database can use, by the settings."""
    values = settings.environment
    return values.ray_client_max_connections + values.db_pool_size + values.db_max_overflow
