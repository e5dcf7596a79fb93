"""`Background`: a background task that belongs to an object."""

from __future__ import annotations

import asyncio

import pytest

from mongars.core.background import Background
from mongars.core.clock import SystemClock

CLOCK = SystemClock()


async def test_closing_ends_the_work() -> None:
    """`aclose` cancels the work; calling it twice is allowed."""
    work = Background(lambda: CLOCK.sleep(60), name="work")
    work.start()
    assert work.running
    await work.aclose()
    assert not work.running
    await work.aclose()


async def test_closing_tells_what_went_wrong() -> None:
    """`aclose` raises the exception with which the work failed."""

    async def fail() -> None:
        message = "broken"
        raise ValueError(message)

    work = Background(fail, name="work")
    work.start()
    await CLOCK.sleep(0)
    with pytest.raises(ValueError, match="broken"):
        await work.aclose()


async def test_a_cancelled_closer_stays_cancelled() -> None:
    """The caller's timeout ends `aclose` even if the work ignores cancellation."""

    async def stubborn() -> None:
        for _ in range(3):
            try:
                await CLOCK.sleep(0.2)
            except asyncio.CancelledError:
                continue

    work = Background(stubborn, name="work")
    work.start()
    await CLOCK.sleep(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await work.aclose()
