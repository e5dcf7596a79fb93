"""A middleware that sets `x-request-id` on every response."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import Request

from mongars.api.requests import request_id_of
from mongars.protocol import headers

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_NAME = headers.REQUEST_ID.encode()


class RequestIds:
    """An ASGI middleware that adds the header `x-request-id` to each HTTP response that does not have it yet.

    Its value is the request's own `x-request-id` if that has 1 to 128 letters, digits, `.`, `_`, `:` or `-`, else a
    new id.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request to the application, and add `x-request-id` to an HTTP response without it.

        Its value is the request's own `x-request-id` if that has 1 to 128 letters, digits, `.`, `_`, `:` or `-`, else
        a new id.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(Request(scope)).encode()

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = message.setdefault("headers", [])
                if not any(name.lower() == _NAME for name, _ in found):
                    message["headers"] = [*found, (_NAME, request_id)]
            await send(message)

        await self._app(scope, receive, named)
