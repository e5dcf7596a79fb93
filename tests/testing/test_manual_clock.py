"""The manual clock, whose time passes only by `advance`."""

from __future__ import annotations

import asyncio

from mongars.testing.manual_clock import ManualClock


async def test_time_passes_only_by_hand() -> None:
    """Time passes only by `advance`; each sleeper wakes at its own time, the earliest first."""
    clock = ManualClock()
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, *waits: float) -> None:
        for seconds in waits:
            await clock.sleep(seconds)
            woken.append((name, clock.monotonic()))

    async with asyncio.TaskGroup() as group:
        group.create_task(sleeper("slow", 3.0))
        group.create_task(sleeper("fast", 1.0, 1.0))
        await clock.advance(0.5)
        assert woken == []
        assert clock.sleepers == 2
        await clock.advance(2.5)
    assert woken == [("fast", 1.0), ("fast", 2.0), ("slow", 3.0)]
    assert clock.slept == [3.0, 1.0, 1.0]


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    """A cancelled sleeper no longer counts as a sleeper."""
    clock = ManualClock()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(clock.sleep(1.0))
        await clock.advance(0)
        task.cancel()
    assert clock.sleepers == 0
    await clock.advance(2.0)
    assert clock.monotonic() == 2.0
    assert (clock.now() - ManualClock().now()).total_seconds() == 2.0
