"""What several tests need: waiting for real things, and clients that leave."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from mongars.core.background import Background
from mongars.core.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine


async def eventually(condition: Callable[[], bool], *, seconds: float = 1.0) -> None:
    """Return as soon as the condition holds; fail after so many seconds."""
    clock = SystemClock()
    async with asyncio.timeout(seconds):
        while not condition():
            await clock.sleep(0.005)


class Impatient:
    """A client at work in the background, that can leave at any time."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._work = Background(work, name="impatient-client")
        self._work.start()

    async def leave(self) -> None:
        """Break off."""
        await self._work.aclose()


@asynccontextmanager
async def impatient(work: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[Impatient]:
    """A client that has left at the end of the block at the latest."""
    client = Impatient(work)
    try:
        yield client
    finally:
        await client.leave()
