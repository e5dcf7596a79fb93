"""A fake Ray Serve application: the real protocol on a real socket, with faults on order."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from mongars.core.errors import InferenceFailed
from mongars.core.generation import Choice, Completion, Origin, Usage
from mongars.protocol import headers
from mongars.protocol.generate import (
    ERROR_EVENT,
    META_EVENT,
    answer_body,
    error_body,
    origin_body,
)
from mongars.protocol.openai import chunk_body, usage_chunk_body
from mongars.protocol.sse import DONE, encode_event
from mongars.testing.fake_server import FakeServer, Received, reset
from mongars.testing.faults import Answer, Body, Fault, Reset, Silence, Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

KEEPALIVE = b": still here\n\n"
KEEPALIVE_SECONDS = 0.05
PROMPT_TOKENS = 7


class _Hangup(Exception):
    """The fake breaks the connection."""


class FakeReplica(FakeServer):
    """Serves `/generate`, `/healthz` and `/readyz`.

    Each request takes the next fault from `faults`; once there is none, `always` applies.
    """

    def __init__(self, *faults: Fault, name: str = "fake-replica") -> None:
        super().__init__()
        self.faults = deque(faults)
        self.always: Fault = Answer()
        self.ready = 200
        """What `/readyz` answers."""
        self.probes = 0
        self.in_flight = 0
        self.origin = Origin(
            model="fake-135m",
            engine="fake",
            adapter_version="v7",
            adapter_digest="d" * 64,
            replica=name,
        )

    @property
    def url(self) -> str:
        """The endpoint, as one would put it into `RAY_SERVE_URL`."""
        return f"{self.base}/generate"

    def add_routes(self, app: web.Application) -> None:
        """The routes of the real ingress."""
        app.router.add_post("/generate", self._generate)
        app.router.add_get("/healthz", self._healthy)
        app.router.add_get("/readyz", self._readiness)

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readiness(self, _: web.Request) -> web.Response:
        self.probes += 1
        return web.json_response({}, status=self.ready)

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        received = await self.note(request)
        fault = self.faults.popleft() if self.faults else self.always
        self.in_flight += 1
        try:
            response = await self._act(request, received, fault)
        except (asyncio.CancelledError, ConnectionError):
            self.left(received)
            raise
        except _Hangup:
            reset(request)
            return web.Response()
        else:
            received.answered = True
            return response
        finally:
            self.in_flight -= 1

    async def _act(
        self, request: web.Request, received: Received, fault: Fault
    ) -> web.StreamResponse:
        match fault:
            case Reset():
                raise _Hangup
            case Silence():
                await self.clock.sleep(3600)
                raise _Hangup
            case Status():
                return self._refusal(fault)
            case Body():
                return web.Response(body=fault.data, content_type=fault.media_type)
            case Answer(whole=True):
                return await self._whole(fault)
            case Answer() if not received.body.get("stream"):
                return await self._whole(fault)
            case Answer():
                return await self._stream(request, fault)

    def _refusal(self, fault: Status) -> web.Response:
        body = fault.body
        if body is None and fault.error:
            body = {"content": "", "error": fault.error, "detail": fault.detail}
            body["adapter_version"] = self.origin.adapter_version
        data = b"<html>no JSON</html>" if body is None else orjson.dumps(body)
        media_type = "text/html" if body is None else "application/json"
        return web.Response(
            status=fault.code, body=data, content_type=media_type, headers=fault.headers
        )

    async def _whole(self, fault: Answer) -> web.Response:
        await self.clock.sleep(fault.first_delay)
        completion = Completion(
            choices=(Choice(text=fault.text, finish_reason="stop"),),
            usage=_usage(fault),
            origin=self.origin,
        )
        return web.Response(
            body=orjson.dumps(answer_body(completion, timings={})),
            content_type="application/json",
            headers=self._headers(),
        )

    async def _stream(self, request: web.Request, fault: Answer) -> web.StreamResponse:
        response = web.StreamResponse(headers=self._headers())
        response.content_type = "text/event-stream"
        await response.prepare(request)
        sent = _Writer(response, fault.block)
        if fault.meta:
            await sent.event(origin_body(self.origin), name=META_EVENT)
        await sent.event(_chunk({"role": "assistant", "content": ""}))
        await self._wait(sent, fault, fault.first_delay)
        async for event in self._tokens(sent, fault):
            await sent.bytes(event)
        if fault.cut_after is not None:
            return await _cut(response, fault)
        await self._ending(sent, fault)
        await self.clock.sleep(3600 if fault.hold_open else fault.end_delay)
        await response.write_eof()
        return response

    async def _tokens(self, sent: _Writer, fault: Answer) -> AsyncIterator[bytes]:
        for index, token in enumerate(tokens(fault.text)):
            if index == fault.cut_after:
                return
            if index == fault.stall_after:
                await self._wait(sent, fault, 3600.0)
            if index == fault.malformed_after:
                yield b'data: {"choices": [{"delta": {"content": "lost\n\n'
                continue
            if index == fault.error_after:
                error = InferenceFailed("The engine fell over.")
                body = error_body(error, adapter_version=self.origin.adapter_version)
                yield encode_event(body, name=ERROR_EVENT)
                return
            if index:
                await self.clock.sleep(fault.token_delay)
            yield encode_event(_chunk({"content": token}, logprob=fault.logprob))

    async def _wait(self, sent: _Writer, fault: Answer, seconds: float) -> None:
        until = self.clock.monotonic() + seconds
        while fault.keepalives and self.clock.monotonic() + KEEPALIVE_SECONDS < until:
            await sent.bytes(KEEPALIVE)
            await self.clock.sleep(KEEPALIVE_SECONDS)
        await self.clock.sleep(until - self.clock.monotonic())

    async def _ending(self, sent: _Writer, fault: Answer) -> None:
        if fault.error_after is not None:
            return
        if fault.finish:
            await sent.event(_chunk({}, finish_reason="stop"))
            usage = usage_chunk_body(
                answer_id="chatcmpl-fake", created=0, model="fake-135m", usage=_usage(fault)
            )
            await sent.event(usage)
        if fault.done:
            await sent.bytes(DONE)

    def _headers(self) -> dict[str, str]:
        return {
            headers.ADAPTER_VERSION: self.origin.adapter_version,
            headers.ADAPTER_DIGEST: self.origin.adapter_digest or "",
            headers.REPLICA_ID: self.origin.replica or "",
        }


class _Writer:
    """Writes to the wire, in blocks of an awkward size if so ordered."""

    def __init__(self, response: web.StreamResponse, block: int | None) -> None:
        self._response = response
        self._block = block

    async def event(self, payload: object, *, name: str | None = None) -> None:
        await self.bytes(encode_event(payload, name=name))

    async def bytes(self, data: bytes) -> None:
        size = self._block or len(data)
        for start in range(0, len(data), size):
            await self._response.write(data[start : start + size])


async def _cut(response: web.StreamResponse, fault: Answer) -> web.StreamResponse:
    if fault.cut == "abort":
        raise _Hangup
    await response.write_eof()
    return response


def tokens(text: str) -> list[str]:
    """The text in the fake's tokens: words, each with the space before it."""
    words = text.split(" ")
    return words[:1] + [f" {word}" for word in words[1:]] if text else []


def _usage(fault: Answer) -> Usage:
    return Usage(prompt_tokens=PROMPT_TOKENS, completion_tokens=len(tokens(fault.text)))


def _chunk(
    delta: dict[str, Any], *, finish_reason: str | None = None, logprob: float | None = None
) -> dict[str, Any]:
    body = chunk_body(
        answer_id="chatcmpl-fake",
        created=0,
        model="fake-135m",
        delta=delta,
        finish_reason=finish_reason,
    )
    if logprob is not None:
        body["choices"][0]["logprobs"] = {"content": [{"logprob": logprob}]}
    return body
