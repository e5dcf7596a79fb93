"""Limit the client connections of Ray Serve's HTTP proxy (ADR 0020).

Ray calls `guard_proxy` in the process of every proxy that starts where its variable
`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` names it. The callback is meant to add middleware, which would be too
late: a request reaches middleware with all its headers. So the protocol class that uvicorn is about to choose is
replaced instead.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import uvicorn.config

from mongars.bootstrap.connection_limits import guarded_protocol
from mongars.bootstrap.memory import give_memory_back
from mongars.core.errors import ConfigurationError
from mongars.protocol.http1.limits import HttpLimits
from mongars.serving.config import PROXY_GUARD
from mongars.settings import load_settings
from mongars.telemetry.logs import LogObserver, configure_logs

if TYPE_CHECKING:
    from mongars.serving.config import ServingConfig

PROBE_SECONDS = 3.0
LOCAL = {"127.0.0.1", "localhost", "0.0.0.0", "::", "::1"}  # noqa: S104 (compared with)


def guard_proxy() -> list[object]:
    """Make every uvicorn server that this process starts later limit its connections and request heads.

    Ray calls it in its HTTP proxy, as the callback that returns additional middleware; the returned list is empty. If
    this node's settings are invalid, the default limits apply.
    """
    try:
        settings = load_settings()
    except ConfigurationError:  # of this node; the proxy serves other applications, too
        settings = load_settings({})
    configure_logs(level=settings.log_level)
    give_memory_back()
    uvicorn.config.HTTP_PROTOCOLS["auto"] = guarded_protocol(settings, LogObserver())  # type: ignore[assignment] # a class is taken as well as its path
    return []


def proxy_advice(config: ServingConfig, dashboard: str) -> str | None:
    """Advice for the operator if Serve's HTTP proxy accepts a request with too many headers; sends it such a request.

    `config` is the configuration of the deployed application, `dashboard` the URL of the cluster's Ray dashboard, on
    whose host the proxy is sought if `config.host` is no other machine's address. None if the proxy refuses the
    request, cannot be reached from here, or is replaced by HAProxy.
    """
    if config.haproxy:
        return None
    host = urlsplit(dashboard).hostname if config.host in LOCAL else config.host
    status = asyncio.run(_status_of_many_headers(host or "127.0.0.1", config.port))
    if status is None or status == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
        return None
    variable, value = next(iter(PROXY_GUARD.items()))
    return (
        "Serve's proxy does not bound what clients send before they are authenticated. Start Ray"
        f" on every node with {variable}={value} in its environment (docs/guide/cluster.md)."
    )


async def _status_of_many_headers(host: str, port: int) -> int | None:
    many = "x-probe: 1\r\n" * (HttpLimits().fields + 10)
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"GET /-/healthz HTTP/1.1\r\nHost: {host}\r\n{many}\r\n".encode())
                return int((await reader.readline()).split(b" ")[1])
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError, IndexError):
        return None
