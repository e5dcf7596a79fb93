"""A model server for the gateway benchmark, with canned answers, so fast that it does not affect the results.

`python -m benchmarks.gateway_upstream PORT` serves `/generate` (for monGARS) and `/v1/chat/completions` (for other
gateways and direct clients) on loopback. `POST /mode/NAME` sets the speed of answers: see `MODES`.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import orjson
import uvloop

from mongars.core.generation import Usage
from mongars.protocol.openai import chunk_body, usage_body, usage_chunk_body
from mongars.protocol.sse import DONE, encode_event

if TYPE_CHECKING:
    from collections.abc import Callable

WORDS = tuple(f" word{n}" for n in range(40))
USAGE = Usage(prompt_tokens=12, completion_tokens=len(WORDS))
_ID, _MODEL = "chatcmpl-canned", "canned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """The seconds before the first byte, and between two words of a stream."""

    first: float = 0.0
    between: float = 0.0


MODES = {"instant": Mode(), "20ms": Mode(first=0.020), "paced": Mode(between=0.050)}


def _delta(delta: dict[str, Any], finish: str | None = None) -> bytes:
    body = chunk_body(answer_id=_ID, created=0, model=_MODEL, delta=delta, finish_reason=finish)
    return encode_event(body)


def _usage() -> bytes:
    return encode_event(usage_chunk_body(answer_id=_ID, created=0, model=_MODEL, usage=USAGE))


_META = encode_event(
    {"model": _MODEL, "engine": "canned", "adapter_version": "v1", "replica": "r1"}, name="meta"
)
_ROLE = _delta({"role": "assistant", "content": ""})
_EVENTS = tuple(_delta({"content": word}) for word in WORDS)
_END = _delta({}, "stop") + _usage() + DONE
_WHOLE = orjson.dumps(
    {
        "id": _ID,
        "object": "chat.completion",
        "created": 0,
        "model": _MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "".join(WORDS)},
                "finish_reason": "stop",
            }
        ],
        "usage": usage_body(USAGE),
    }
)
_OK = b"HTTP/1.1 200 OK\r\n"
_STREAM_HEAD = _OK + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _piece(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _json(data: bytes) -> bytes:
    return _OK + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(data) + data


class Connection(asyncio.Protocol):
    """One keep-alive connection; its requests are answered one after the other."""

    mode = MODES["instant"]

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._timers: set[asyncio.TimerHandle] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        """Stop writing."""
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Answer every complete request."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            length = 0
            if (at := head.find(b"content-length:")) >= 0:
                length = int(head[at + 15 :].split(b"\r\n", 1)[0])
            if len(self._buffer) < end + 4 + length:
                return
            body = self._buffer[end + 4 : end + 4 + length]
            self._buffer = self._buffer[end + 4 + length :]
            self._answer(head.split(b" ", 2)[1], body)

    def _answer(self, path: bytes, body: bytes) -> None:
        if path.startswith(b"/mode/"):
            Connection.mode = MODES[path.removeprefix(b"/mode/").decode()]
            self._write(_json(b"{}"))
        elif path in {b"/healthz", b"/readyz"}:
            self._write(_json(b"{}"))
        elif b'"stream":true' in body.replace(b" ", b""):
            meta = _META if path == b"/generate" else b""
            self._later(self.mode.first, lambda: self._stream(meta + _ROLE))
        else:
            self._later(self.mode.first, lambda: self._write(_json(_WHOLE)))

    def _stream(self, beginning: bytes) -> None:
        if not self.mode.between:
            blocks = _piece(beginning + _EVENTS[0]) + _piece(b"".join(_EVENTS[1:]) + _END)
            self._write(_STREAM_HEAD + blocks + b"0\r\n\r\n")
            return
        self._write(_STREAM_HEAD + _piece(beginning + _EVENTS[0]))
        self._word(1, asyncio.get_running_loop().time() + self.mode.between)

    def _word(self, index: int, due: float) -> None:
        """Write word `index` at the time `due`, and schedule the next one, so that delays do not add up."""

        def write() -> None:
            if index == len(_EVENTS):
                self._write(_piece(_END) + b"0\r\n\r\n")
                return
            self._write(_piece(_EVENTS[index]))
            if self._transport is not None:
                self._word(index + 1, due + self.mode.between)

        asyncio.get_running_loop().call_at(due, write)

    def _later(self, seconds: float, write: Callable[[], None]) -> None:
        if seconds:
            asyncio.get_running_loop().call_later(seconds, write)
        else:
            write()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


async def serve(port: int) -> None:
    """Serve until the process is killed."""
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
