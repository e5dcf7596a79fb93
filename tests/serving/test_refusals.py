"""Refusals (503): sent at once while they are few, delayed while they are many, never by more than a bound."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from mongars.serving.refusals import BURST, LONGEST, PER_SECOND, Refusals
from mongars.testing.manual_clock import ManualClock

TOLERANCE = 1e-9


async def told(clock: ManualClock, refusals: Refusals, count: int) -> list[float]:
    """The delays of `count` simultaneous refusals, in seconds."""
    began, moments = clock.monotonic(), list[float]()

    async def one() -> None:
        await refusals.turn()
        moments.append(clock.monotonic() - began)

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(one())
        await clock.advance(LONGEST + 1)
    return moments


async def test_a_few_refusals_are_sent_at_once() -> None:
    """`BURST` refusals are sent without a delay."""
    clock = ManualClock()
    assert max(await told(clock, Refusals(clock), BURST)) < TOLERANCE


async def test_many_refusals_are_sent_one_after_the_other_and_none_waits_long() -> None:
    """Many refusals are sent one by one, `PER_SECOND`, and none waits longer than `LONGEST` seconds."""
    clock = ManualClock()
    moments = await told(clock, Refusals(clock), 200)
    in_turn = [moment for moment in moments if TOLERANCE < moment < LONGEST - TOLERANCE]
    gaps = {round(b - a, 6) for a, b in pairwise(in_turn)}
    assert gaps == {1 / PER_SECOND}
    assert abs(max(moments) - LONGEST) < TOLERANCE


async def test_after_the_storm_it_is_as_before() -> None:
    """After many refusals and a pause, refusals are sent at once again."""
    clock = ManualClock()
    refusals = Refusals(clock)
    await told(clock, refusals, 200)
    await clock.advance(LONGEST + BURST / PER_SECOND)
    assert max(await told(clock, refusals, BURST)) < TOLERANCE


async def test_callers_who_come_back_at_once_are_slowed_down() -> None:
    """70 clients that send again at once are slowed down by the delay of their refusals."""
    clock = ManualClock()
    refusals, asked = Refusals(clock), 0

    async def caller() -> None:
        nonlocal asked
        while clock.monotonic() < 60:
            asked += 1
            await refusals.turn()
            await clock.sleep(0.25)

    async with asyncio.TaskGroup() as group:
        for _ in range(70):
            group.create_task(caller())
        await clock.advance(65)
    assert asked < 60 * 70 / LONGEST + 70
