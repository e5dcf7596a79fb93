"""Serving an ASGI application on a real loopback socket during a test."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal

import uvicorn

from mongars.core.background import Background
from mongars.core.clock import SystemClock

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator

    from uvicorn._types import ASGIApplication


@asynccontextmanager
async def serving(
    app: ASGIApplication, *, http: type[asyncio.Protocol] | Literal["auto"] = "auto"
) -> AsyncIterator[str]:
    """A context manager that serves the ASGI application `app` on a free port of 127.0.0.1 and gives its base URL.

    `http` is the protocol class that uvicorn uses for connections; `auto`: uvicorn's choice. On exit, running requests
    have 2 seconds to end.
    """
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, http=http, log_level="error", access_log=False, timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)
    clock = SystemClock()
    task = Background(lambda: server.serve(sockets=[listener]), name="test-server")
    task.start()
    try:
        while not server.started:
            if not task.running:
                await task.finished()
            await clock.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task.finished()
        listener.close()
