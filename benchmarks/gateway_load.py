"""The load generator of the gateway benchmark: raw connections, so that the client itself costs little."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import orjson

from mongars.core.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Mapping

CLOCK = SystemClock()
CONTENT = b'"content":"'
NOTHING = b'"content":""'


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server to measure, as a client reaches it."""

    name: str
    port: int
    path: str = "/v1/chat/completions"
    headers: Mapping[str, str] = field(default_factory=dict)
    model: str = "canned"

    def request(self, *, stream: bool) -> bytes:
        """The bytes of one request."""
        question = {
            "model": self.model,
            "messages": [{"role": "user", "content": "Say forty words about nothing at all."}],
            "stream": stream,
        }
        body = orjson.dumps(question)
        lines = [
            f"POST {self.path} HTTP/1.1",
            f"host: 127.0.0.1:{self.port}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass(slots=True)
class Seen:
    """One answer as the client saw it; times are in seconds since the request."""

    first_content: float = 0.0
    seconds: float = 0.0
    longest_gap: float = 0.0
    """The longest time between two arrivals of content."""
    words: int = 0
    ok: bool = False


class Client(asyncio.Protocol):
    """One connection that sends one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._data = bytearray()
        self._seen = Seen()
        self._began = self._last = 0.0
        self._body_at = -1
        self._length: int | None = None
        self._done: asyncio.Future[Seen] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        """Mark a running request as failed."""
        self._transport = None
        self._finish(ok=False)

    async def ask(self, request: bytes) -> Seen:
        """Send a request and return its answer."""
        if self._transport is None:
            return Seen()
        self._data.clear()
        self._seen, self._body_at, self._length = Seen(), -1, None
        self._done = asyncio.get_running_loop().create_future()
        self._began = CLOCK.monotonic()
        self._transport.write(request)
        return await self._done

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Record when content arrived, and whether the answer is complete."""
        now = CLOCK.monotonic()
        self._data += data
        if self._body_at < 0 and not self._read_head():
            return
        if words := data.count(CONTENT) - data.count(NOTHING):
            if self._seen.words:
                self._seen.longest_gap = max(self._seen.longest_gap, now - self._last)
            else:
                self._seen.first_content = now - self._began
            self._seen.words += words
            self._last = now
        if self._length is None:
            if self._data.endswith(b"0\r\n\r\n"):
                self._finish(ok=self._is_good(b"[DONE]"))
        elif len(self._data) >= self._body_at + self._length:
            self._finish(ok=self._is_good(b"word39"))

    def _read_head(self) -> bool:
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return False
        self._body_at = end + 4
        head = bytes(self._data[:end]).lower()
        if (at := head.find(b"content-length:")) >= 0:
            self._length = int(head[at + 15 :].split(b"\r\n", 1)[0])
        return True

    def _is_good(self, ending: bytes) -> bool:
        return self._data.startswith(b"HTTP/1.1 200") and ending in self._data

    def _finish(self, *, ok: bool) -> None:
        if self._done is not None and not self._done.done():
            self._seen.seconds = CLOCK.monotonic() - self._began
            self._seen.ok = ok
            self._done.set_result(self._seen)


async def connect(target: Target) -> Client:
    """Open a new connection."""
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(Client, "127.0.0.1", target.port)
    return client


async def closed_loop(
    target: Target,
    *,
    connections: int,
    requests: int | None = None,
    seconds: float = math.inf,
    stream: bool = False,
) -> tuple[list[Seen], float]:
    """Send `requests` requests, or for `seconds`, over connections that are always busy; returns answers and time."""
    request = target.request(stream=stream)
    left = math.inf if requests is None else requests
    seen: list[Seen] = []

    async def work() -> None:
        nonlocal left
        client = await connect(target)
        while left > 0 and CLOCK.monotonic() - began < seconds:
            left -= 1
            answer = await client.ask(request)
            seen.append(answer)
            if not answer.ok:
                client.close()
                client = await connect(target)
        client.close()

    began = CLOCK.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(work())
    return seen, CLOCK.monotonic() - began


async def paced_streams(target: Target, *, streams: int, spread: float) -> list[Seen]:
    """Run `streams` streams, whose starts are spread over `spread` seconds."""
    request = target.request(stream=True)

    async def one(number: int) -> Seen:
        await CLOCK.sleep(spread * number / streams)
        client = await connect(target)
        seen = await client.ask(request)
        client.close()
        return seen

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(number)) for number in range(streams)]
    return [task.result() for task in tasks]
