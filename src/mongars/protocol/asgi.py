"""Writes responses over bare ASGI, in one task, until the client disconnects.

A generation is cancelled whenever its client disconnects. Before the first byte of the response, no write can
fail and thereby show the disconnect, so `run_until_disconnect` waits for the disconnect message concurrently.
Everything a response needs (timeouts, slots, connections to model servers) is entered and left in one task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from typing import Any

import orjson

AsgiMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiMessage]]
Send = Callable[[AsgiMessage], Awaitable[None]]
AsgiApp = Callable[[AsgiMessage, Receive, Send], Awaitable[None]]


async def run_until_disconnect(
    receive: Receive, work: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Await `work()`, and cancel it when the client disconnects; returns normally in both cases.

    `receive`: ASGI's function for the messages of the request, whose body must have been read before. Raises the
    exceptions of `work()`, and `CancelledError` if the current task is cancelled.
    """
    worker = asyncio.current_task()
    left = False

    async def watch() -> None:
        nonlocal left
        while (await receive())["type"] != "http.disconnect":
            pass
        left = True
        if worker is not None:
            worker.cancel()

    # It is cancelled below in any case, and a group would need a second task.
    watcher = asyncio.create_task(watch())  # noqa: TID251
    try:
        await work()
    except asyncio.CancelledError:
        stopped_too = worker is not None and left and worker.uncancel() > 0
        if stopped_too or not left:  # cancelled from outside, not (only) because of the disconnect
            raise
    finally:
        watcher.cancel()


class ResponseWriter:
    """Writes one HTTP response over ASGI.

    `started`: whether the status has been sent; until then another status, such as that of an error, can still be sent.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the HTTP status and headers; call it once, before the body.

        `headers`: values by name; the names are sent in lower case.
        """
        self.started = True
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def write(self, block: bytes) -> None:
        """Send a part of the response body at once."""
        await self._send({"type": "http.response.body", "body": block, "more_body": True})

    async def end(self) -> None:
        """Complete the response: no part of its body follows."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def json(self, status: int, body: object, headers: Mapping[str, str]) -> None:
        """Send a complete response with `body` encoded as JSON.

        `headers`: added to `content-type` and `content-length`, or replace them if they have these names in lower case.
        """
        data = orjson.dumps(body)
        fixed = {"content-type": "application/json", "content-length": str(len(data))}
        await self.start(status, {**fixed, **headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": False})


def stream_headers(media_type: str) -> dict[str, str]:
    """The response headers for a streamed body of type `media_type`, which disable caching and buffering in proxies.

    Keys: `content-type`, `cache-control` and `x-accel-buffering`.
    """
    return {
        "content-type": media_type,
        "cache-control": "no-cache",
        # nginx and proxies that follow its convention then forward each part without buffering.
        "x-accel-buffering": "no",
    }


EVENT_STREAM_HEADERS = stream_headers("text/event-stream")


class WrittenResponse:
    """An ASGI response, as a route returns it, that is written by the coroutine function `serve`.

    `serve` is called with a `ResponseWriter`, and cancelled when the client disconnects.
    """

    background: Any = None
    """Always None; FastAPI reads this attribute of every response."""

    def __init__(self, serve: Callable[[ResponseWriter], Coroutine[Any, Any, None]]) -> None:
        self._serve = serve

    async def __call__(self, _scope: object, receive: Receive, send: Send) -> None:
        """Run `serve` until it returns or the client disconnects. Raises the exceptions of `serve`."""
        await run_until_disconnect(receive, lambda: self._serve(ResponseWriter(send)))
