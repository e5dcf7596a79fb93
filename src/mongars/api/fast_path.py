"""Serving `/v1/chat/completions`, the busiest route, without FastAPI's routing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import Request

from mongars.core.errors import MongarsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fastapi.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send


class FastPath:
    """An ASGI application that calls `endpoint` directly for POST requests to `path`, without FastAPI's routing.

    All requests whose method or path differs go to `app`. Routing, parameter parsing and middleware take a tenth of the
    API process's own time per request and do nothing for a route without parameters. `on_error` makes the response to a
    `MongarsError`; any other exception propagates to the surrounding ASGI application. The route is also registered
    with FastAPI, for its description and for requests with another method.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        path: str,
        endpoint: Callable[[Request], Awaitable[Response]],
        on_error: Callable[[Request, Exception], Awaitable[Response]],
    ) -> None:
        self._app = app
        self._path = path
        self._endpoint = endpoint
        self._on_error = on_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a POST request to `path` with `endpoint`; forward every other request to `app`."""
        if scope.get("path") != self._path or scope.get("method") != "POST":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            response = await self._endpoint(request)
        except MongarsError as error:
            response = await self._on_error(request, error)
        await response(scope, receive, send)
