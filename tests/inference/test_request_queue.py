"""`RequestQueue`, in which requests wait for a free endpoint: order, bounds and expected waits."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from mongars.core.clock import SystemClock
from mongars.core.errors import Overloaded
from mongars.core.fair_queue import Share
from mongars.inference.request_queue import MAX_WAITING, RequestQueue
from mongars.testing.manual_clock import ManualClock
from support import eventually


class SizedQueue:
    """A queue whose capacity the test sets, with the order in which requests got a slot."""

    def __init__(self, capacity: int | None) -> None:
        self.capacity = capacity
        self.queue = RequestQueue(lambda: self.capacity, clock=SystemClock())
        self.order: list[int] = []

    async def visit(
        self, number: int, leave: asyncio.Event, *, queue_timeout: float = 10.0
    ) -> None:
        async with self.queue.slot(queue_timeout):
            self.order.append(number)
            await leave.wait()


async def test_first_come_first_served() -> None:
    sized, leave = SizedQueue(1), [asyncio.Event() for _ in range(4)]
    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(sized.visit(number, leave[number]))
            await eventually(lambda number=number: sized.queue.waiting == number)
        for number in range(4):
            await eventually(lambda number=number: sized.order == list(range(number + 1)))
            assert sized.queue.active == 1
            leave[number].set()
    assert (sized.queue.active, sized.queue.waiting) == (0, 0)


async def test_new_requests_do_not_pass_waiting_ones() -> None:
    """A new request gets no slot between the end of one request and the start of the next waiting one."""
    sized, leave = SizedQueue(1), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(sized.visit(0, leave))
        await eventually(lambda: sized.order == [0])
        group.create_task(sized.visit(1, leave))
        await eventually(lambda: sized.queue.waiting == 1)
        first.cancel()
        await eventually(lambda: sized.queue.waiting == 0)
        group.create_task(sized.visit(2, leave))
        await eventually(lambda: sized.order == [0, 1])
        assert sized.queue.active == 1
        leave.set()
    assert sized.order == [0, 1, 2]


async def test_more_room_lets_more_in() -> None:
    sized, leave = SizedQueue(1), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(sized.visit(number, leave))
        await eventually(lambda: sized.queue.waiting == 4)
        sized.capacity = 3
        sized.queue.wake()
        await eventually(lambda: len(sized.order) == 3)
        sized.capacity = None
        sized.queue.wake()
        await eventually(lambda: len(sized.order) == 5)
        leave.set()


async def test_cancelled_waits_leave_no_trace() -> None:
    sized, leave = SizedQueue(1), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(sized.visit(0, leave))
        await eventually(lambda: sized.order == [0])
        waiting = [group.create_task(sized.visit(n, leave)) for n in range(1, 30)]
        await eventually(lambda: sized.queue.waiting == 29)
        for task in waiting[:28]:
            task.cancel()
        await eventually(lambda: sized.queue.waiting == 1)
        leave.set()
    assert sized.order == [0, 29]
    assert (sized.queue.active, sized.queue.waiting) == (0, 0)


async def test_cancelled_at_the_moment_it_gets_a_slot() -> None:
    """If a request is cancelled just as it gets a slot, the slot goes to the next waiting request."""
    sized, leave = SizedQueue(1), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(sized.visit(0, asyncio.Event()))
        await eventually(lambda: sized.order == [0])
        second = group.create_task(sized.visit(1, asyncio.Event()))
        third = group.create_task(sized.visit(2, leave))
        await eventually(lambda: sized.queue.waiting == 2)
        first.cancel()
        while sized.queue.waiting == 2:
            await SystemClock().sleep(0)
        second.cancel()
        await eventually(lambda: sized.order == [0, 2])
        leave.set()
        await third
    assert sized.queue.active == 0


async def test_the_wait_is_bounded() -> None:
    sized, leave = SizedQueue(1), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(sized.visit(0, leave))
        await eventually(lambda: sized.order == [0])
        with pytest.raises(Overloaded) as refusal:
            await sized.visit(1, leave, queue_timeout=0.02)
        assert refusal.value.retry_after is not None
        assert refusal.value.retry_after >= 1
        leave.set()


async def test_requests_that_cannot_be_served_in_time_are_refused_on_arrival() -> None:
    """A request that may wait 5 s is refused at once if the expected wait, 2 s per waiting request, is longer."""
    clock = ManualClock()
    queue = RequestQueue(lambda: 1, clock=clock)
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        done = asyncio.Event()

        async def work() -> None:
            async with queue.slot(1000):
                await clock.sleep(2)

        tasks = [group.create_task(work()) for _ in range(40)]
        await clock.advance(60)
        assert queue.waiting > 5
        with pytest.raises(Overloaded) as refusal:
            await stack.enter_async_context(queue.slot(5.0))
        assert refusal.value.retry_after == pytest.approx(2 * (queue.waiting + 1), rel=0.1)
        done.set()
        for task in tasks:
            task.cancel()


async def test_flood_of_one_account_does_not_refuse_another() -> None:
    """While one account's long requests fill the queue, another account's request gets a slot at once."""
    clock = ManualClock()
    queue = RequestQueue(lambda: 2, clock=clock)
    flood, other = Share(scope="A"), Share(scope="B")
    async with asyncio.TaskGroup() as group:

        async def work() -> None:
            async with queue.slot(1000, flood):
                await clock.sleep(60)

        tasks = [group.create_task(work()) for _ in range(40)]
        for _ in range(5):
            await clock.advance(60)
        assert queue.waiting > 5
        with pytest.raises(Overloaded):
            await queue.slot(5.0, flood).__aenter__()
        async with queue.slot(5.0, other) as waited:
            assert (waited, queue.active) == (0, 3)
        for task in tasks:
            task.cancel()


async def test_the_queue_is_bounded() -> None:
    sized, leave = SizedQueue(1), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number in range(MAX_WAITING + 1):
            group.create_task(sized.visit(number, leave))
        await eventually(lambda: sized.queue.waiting == MAX_WAITING)
        with pytest.raises(Overloaded):
            await sized.visit(-1, leave)
        leave.set()


async def test_a_quiet_time_is_not_taken_for_a_slow_one() -> None:
    """An hour without requests does not lengthen the expected wait of the next queue."""
    clock = ManualClock()
    queue = RequestQueue(lambda: 1, clock=clock)

    async def work() -> None:
        async with queue.slot(5.0):
            await clock.sleep(0.1)

    for _ in range(3):
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(work())
            await clock.advance(1)
        await clock.advance(3600)
    assert (queue.active, queue.waiting) == (0, 0)


async def test_a_second_place_is_given_only_where_one_is_spare() -> None:
    """An extra slot is given only if one is free and no request waits, and counts as a slot in use."""
    sized, leave = SizedQueue(2), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(sized.visit(0, leave))
        await eventually(lambda: sized.queue.active == 1)
        with sized.queue.extra_slot() as first:
            assert first
            assert sized.queue.active == 2
            with sized.queue.extra_slot() as second:
                assert not second
            group.create_task(sized.visit(1, leave))
            await eventually(lambda: sized.queue.waiting == 1)
            sized.capacity = 3
            with sized.queue.extra_slot() as third:
                assert not third
            sized.capacity = 2
        await eventually(lambda: sized.order == [0, 1])
        leave.set()
    assert (sized.queue.active, sized.queue.waiting) == (0, 0)
