"""Answering over bare ASGI, in one task, until the client leaves.

A generation is cancelled when its caller disconnects, in every phase: before the first byte there
is nothing to write that could fail, so somebody has to listen. `run_until_disconnect` does.
Everything an answer needs (timeouts, slots, upstream connections) is entered and left in one task.
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
    """Run `work`; cancel it when the client disconnects. Raises what `work` raises.

    The request body must have been read before.
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

    # It ends below in any case, and a group would need a second task.
    watcher = asyncio.create_task(watch())  # noqa: TID251
    try:
        await work()
    except asyncio.CancelledError:
        stopped_too = worker is not None and left and worker.uncancel() > 0
        if stopped_too or not left:  # it was not, or not only, the client who left
            raise
    finally:
        watcher.cancel()


class Answer:
    """Writes one HTTP answer; knows whether it has begun, and so whether a status is still free."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send status and headers."""
        self.started = True
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def write(self, block: bytes) -> None:
        """Send a part of the body at once."""
        await self._send({"type": "http.response.body", "body": block, "more_body": True})

    async def end(self) -> None:
        """Say that the body is complete."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def json(self, status: int, body: object, headers: Mapping[str, str]) -> None:
        """Send a whole JSON answer."""
        data = orjson.dumps(body)
        fixed = {"content-type": "application/json", "content-length": str(len(data))}
        await self.start(status, {**fixed, **headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": False})


EVENT_STREAM_HEADERS = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache",
    # Tells nginx, and proxies that follow it, not to hold events back.
    "x-accel-buffering": "no",
}


class AnswerApp:
    """An ASGI response that a coroutine writes; cancelled when the client leaves."""

    background: Any = None
    """Looked for by FastAPI on every response."""

    def __init__(self, serve: Callable[[Answer], Coroutine[Any, Any, None]]) -> None:
        self._serve = serve

    async def __call__(self, _scope: object, receive: Receive, send: Send) -> None:
        """Run the coroutine until it ends or the client disconnects."""
        await run_until_disconnect(receive, lambda: self._serve(Answer(send)))
