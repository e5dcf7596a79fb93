"""Responses with faults that no HTTP library would send, written directly to the connection."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mongars.testing.fake_answers import (
    EVENT_STREAM,
    JSON,
    origin_headers,
    stream_body,
    whole_body,
)
from mongars.testing.faults import FOREVER, TEXT, StrayAnswer, TrickledHead, WrongLength

if TYPE_CHECKING:
    from aiohttp import web

    from mongars.core.clock import Clock
    from mongars.core.generation import Origin


AFTERTHOUGHT = 0.05
"""Seconds before bytes beyond the announced length, or a second response, are sent."""


class RawAnswer:
    """Sends one correct answer with a fault in the HTTP response, by writing to the connection directly.

    `stream`: as server-sent events, else as one JSON object. Call one of its methods, once: each sends the response
    with another fault, and closes the connection. Raises `ConnectionResetError` if the client has closed it already.
    """

    def __init__(self, request: web.Request, *, origin: Origin, clock: Clock, stream: bool) -> None:
        if not isinstance(request.transport, asyncio.WriteTransport):
            raise ConnectionResetError
        self._transport = request.transport
        self._origin = origin
        self._clock = clock
        self._body = stream_body(origin, TEXT) if stream else whole_body(origin, TEXT)
        self._media_type = EVENT_STREAM if stream else JSON

    async def trickle(self, fault: TrickledHead) -> None:
        """Send status line and headers byte by byte, `fault.byte_delay` seconds apart, then the body at once."""
        for byte in self._head({"Connection": "close"}):
            self._transport.write(bytes((byte,)))
            await self._clock.sleep(fault.byte_delay)
        self._transport.write(self._body)
        self._transport.close()

    async def misjudge(self, fault: WrongLength) -> None:
        """Send headers with a `Content-Length` that is wrong by `fault.by` bytes, then the body.

        Bytes beyond a length that is too small follow 0.05 seconds later. With `fault.hold_open`, the connection is
        closed only an hour later.
        """
        announced = max(0, len(self._body) + fault.by)
        self._transport.write(self._head({"Content-Length": str(announced)}))
        self._transport.write(self._body[:announced])
        if fault.by < 0:
            await self._clock.sleep(AFTERTHOUGHT)
            self._transport.write(self._body[announced:])
        if fault.hold_open:
            await self._clock.sleep(FOREVER)
        self._transport.close()

    async def repeat(self, fault: StrayAnswer) -> None:
        """Send a response, and 0.05 seconds later one with `fault.text` that belongs to no request.

        The second one is one JSON object, even if the first is a stream. The connection then stays open for an hour.
        """
        stray = whole_body(self._origin, fault.text)
        self._transport.write(self._head({"Content-Length": str(len(self._body))}) + self._body)
        await self._clock.sleep(AFTERTHOUGHT)
        self._media_type = JSON
        self._transport.write(self._head({"Content-Length": str(len(stray))}) + stray)
        await self._clock.sleep(FOREVER)
        self._transport.close()

    def _head(self, framing: dict[str, str]) -> bytes:
        told = {"Content-Type": self._media_type, **origin_headers(self._origin), **framing}
        lines = ["HTTP/1.1 200 OK", *(f"{name}: {value}" for name, value in told.items())]
        return "\r\n".join((*lines, "", "")).encode("ascii")
