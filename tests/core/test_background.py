"""Owned background tasks."""

from __future__ import annotations

import asyncio

import pytest

from mongars.core.background import Background
from mongars.core.clock import SystemClock

CLOCK = SystemClock()


async def test_closing_ends_the_work() -> None:
    """After `aclose` the work is over; closing twice is fine."""
    work = Background(lambda: CLOCK.sleep(60), name="work")
    work.start()
    assert work.running
    await work.aclose()
    assert not work.running
    await work.aclose()


async def test_closing_tells_what_went_wrong() -> None:
    """A failure of the work is not lost."""

    async def fail() -> None:
        message = "broken"
        raise ValueError(message)

    work = Background(fail, name="work")
    work.start()
    await CLOCK.sleep(0)
    with pytest.raises(ValueError, match="broken"):
        await work.aclose()


async def test_a_cancelled_closer_stays_cancelled() -> None:
    """Waiting for stubborn work obeys the caller's own timeout."""

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
