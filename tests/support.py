"""Helpers of several tests: waiting for a condition, reading streams, and clients that disconnect."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from mongars.core.background import Background
from mongars.core.clock import SystemClock
from mongars.protocol.accumulate import AnswerAccumulator
from mongars.protocol.openai import read_chunk
from mongars.protocol.sse import EventSplitter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from mongars.core.generation import Completion, GenerationRequest
    from mongars.engines.engine import ByteStream, Engine


async def eventually(condition: Callable[[], bool], *, seconds: float = 1.0) -> None:
    """Return as soon as `condition()` is true; raise `TimeoutError` after `seconds`."""
    clock = SystemClock()
    async with asyncio.timeout(seconds):
        while not condition():
            await clock.sleep(0.005)


async def read_all(engine: Engine, request: GenerationRequest) -> tuple[Completion, bytes]:
    """An engine's complete answer to `request`, and the raw bytes of its stream."""
    return await read_stream(engine, engine.stream(request))


async def read_stream(
    engine: Engine, stream: ByteStream, *, choices: int = 1
) -> tuple[Completion, bytes]:
    """The complete answer and the raw bytes of an opened stream with `choices` answers."""
    splitter, accumulated, raw = EventSplitter(), AnswerAccumulator(choices), b""
    async with stream as blocks:
        async for block in blocks:
            raw += block
            for event in splitter.feed(block):
                if not event.is_done:
                    accumulated.add(read_chunk(event))
    return accumulated.completion(engine.origin), raw


@asynccontextmanager
async def started(engine: Engine) -> AsyncIterator[Engine]:
    """Starts the engine, yields it, and closes it at the end of the block."""
    await engine.start()
    try:
        yield engine
    finally:
        await engine.aclose()


class Impatient:
    """A client that runs the coroutine `work` in the background and can disconnect at any time."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._work = Background(work, name="impatient-client")
        self._work.start()

    async def leave(self) -> None:
        """Cancel the client's request and wait for the end of its task."""
        await self._work.aclose()


@asynccontextmanager
async def impatient(work: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[Impatient]:
    """A running background client that is cancelled at the end of the block at the latest."""
    client = Impatient(work)
    try:
        yield client
    finally:
        await client.leave()
