"""The streamed answer of a fake replica, with the faults of `FaultyResponse` and `HugeEvent`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from mongars.core.errors import InferenceFailed
from mongars.protocol import headers
from mongars.protocol.generate import ERROR_EVENT, error_body
from mongars.protocol.sse import DONE, encode_event
from mongars.testing.fake_answers import (
    EVENT_STREAM,
    finish_events,
    opening,
    origin_headers,
    reasoning_event,
    token_event,
    tokens,
)
from mongars.testing.faults import FOREVER, TEXT, FaultyResponse, HugeEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.core.clock import Clock
    from mongars.core.generation import Origin

KEEPALIVE = b": still here\n\n"
KEEPALIVE_SECONDS = 0.05
PIECE = b"x" * 65_536
MIB = 1024 * 1024


class Hangup(Exception):
    """Raised when a fault requires that the fake server resets the connection of the current request."""


class EventStream:
    """The streamed response of a fake replica to one request, as server-sent events, with faults.

    `origin` is the model, adapter and replica that the response names. Use an object once: for `send` or `send_huge`.
    """

    def __init__(
        self, request: web.Request, *, origin: Origin, clock: Clock, continued: bool = False
    ) -> None:
        """`continued`: send the header by which a replica confirms that it continues the answer in `continue_from`.

        That field of a request contains the text of a broken answer that another replica began.
        """
        self._request = request
        self._origin = origin
        self._clock = clock
        told = {headers.CONTINUED: "true"} if continued else {}
        self._response = web.StreamResponse(headers={**origin_headers(origin), **told})
        self._response.content_type = EVENT_STREAM

    async def send(self, fault: FaultyResponse, *, said: int = 0) -> web.StreamResponse:
        """Send the answer of `fault`, with its delays and faults, except the first `said` tokens; returns the response.

        The response is complete then. Raises `Hangup` if `fault` cuts the stream by a reset of the connection, and
        `ConnectionError` if the client has closed it.
        """
        await self._response.prepare(self._request)
        for event in opening(self._origin if fault.meta else None):
            await self._write(event, fault.block)
        await self._wait(fault, fault.first_delay)
        for token in tokens(fault.reasoning):
            await self._write(reasoning_event(token, field=fault.reasoning_field), fault.block)
            await self._clock.sleep(fault.token_delay)
        async for event in self._tokens(fault, said):
            await self._write(event, fault.block)
        if fault.cut_after is None:
            await self._end(fault)
            await self._clock.sleep(FOREVER if fault.hold_open else fault.end_delay)
        elif fault.cut == "abort":
            raise Hangup
        await self._response.write_eof()
        return self._response

    async def send_huge(self, fault: HugeEvent) -> web.StreamResponse:
        """Send a short correct answer with one additional event of `fault.mib` MiB; returns the response.

        That event follows `fault.after` tokens of the answer. Raises `ConnectionError` if the client has closed the
        connection.
        """
        await self._response.prepare(self._request)
        said = [token_event(token) for token in tokens(TEXT)]
        huge_head, huge_tail = token_event("|").split(b"|")
        for event in (*opening(self._origin), *said[: fault.after], huge_head):
            await self._response.write(event)
        for _ in range(fault.mib * MIB // len(PIECE)):
            await self._response.write(PIECE)
        for event in (huge_tail, *said[fault.after :], *finish_events(TEXT), DONE):
            await self._response.write(event)
        await self._response.write_eof()
        return self._response

    async def _tokens(self, fault: FaultyResponse, said: int) -> AsyncIterator[bytes]:
        for index, token in enumerate(tokens(fault.text)):
            if index < said:
                continue
            if index == fault.cut_after:
                return
            if index == fault.stall_after:
                await self._wait(fault, fault.stall_seconds)
            if index == fault.malformed_after:
                yield b'data: {"choices": [{"delta": {"content": "lost\n\n'
                continue
            if index == fault.error_after:
                yield self._error()
                return
            if index:
                await self._clock.sleep(fault.token_delay)
            yield token_event(token, logprob=fault.logprob)

    def _error(self) -> bytes:
        error = InferenceFailed("The engine fell over.")
        body = error_body(error, adapter_version=self._origin.adapter_version)
        return encode_event(body, name=ERROR_EVENT)

    async def _end(self, fault: FaultyResponse) -> None:
        if fault.error_after is not None:
            return
        if fault.finish:
            for event in finish_events(fault.text):
                await self._write(event, fault.block)
        if fault.done:
            await self._write(DONE, fault.block)

    async def _wait(self, fault: FaultyResponse, seconds: float) -> None:
        until = self._clock.monotonic() + seconds
        while fault.keepalives and self._clock.monotonic() + KEEPALIVE_SECONDS < until:
            await self._write(KEEPALIVE, fault.block)
            await self._clock.sleep(KEEPALIVE_SECONDS)
        await self._clock.sleep(until - self._clock.monotonic())

    async def _write(self, data: bytes, block: int | None) -> None:
        size = block or len(data)
        for start in range(0, len(data), size):
            await self._response.write(data[start : start + size])
