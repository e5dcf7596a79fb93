"""Support for HEAD on every route that has GET (RFC 9110, section 9.3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mongars.protocol.asgi import AsgiApp, AsgiMessage, Receive, Send


class HeadAsGet:
    """ASGI middleware that answers HEAD with the status and headers of GET, without the body."""

    def __init__(self, app: AsgiApp) -> None:
        self._app = app

    async def __call__(self, scope: AsgiMessage, receive: Receive, send: Send) -> None:
        """Handle HEAD as GET, and leave out the body of the response; other requests are forwarded unchanged."""
        if scope.get("method") != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: AsgiMessage) -> None:
            if message["type"] == "http.response.body":
                if message.get("more_body"):
                    return
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "method": "GET"}, receive, without_body)


def with_head(methods: list[str]) -> list[str]:
    """The methods for an `Allow` header: HEAD is added after GET if GET is among `methods`."""
    found = [method for method in methods if method != "HEAD"]
    return [
        name for method in found for name in ([method, "HEAD"] if method == "GET" else [method])
    ]
