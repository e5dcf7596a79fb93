"""The expected wait in an engine's queue."""

from __future__ import annotations

import asyncio

import pytest

from mongars.core.deadline import Deadline
from mongars.core.errors import InvalidRequest, Overloaded
from mongars.core.fair_queue import Share
from mongars.engines.admission import Admission
from mongars.testing.manual_clock import ManualClock


async def served(admission: Admission, clock: ManualClock, *, seconds: float) -> None:
    async with admission.slot(Deadline.after(clock, 100.0)):
        await clock.advance(seconds)


async def test_expected_wait_is_a_running_average_of_complete_answers() -> None:
    """The expected wait is the duration of the first answer, and then a running average."""
    clock, admission = ManualClock(), Admission(slots=1, max_waiting=2)
    await served(admission, clock, seconds=10.0)
    async with admission.slot(Deadline.after(clock, 100.0)):
        assert admission.expected_wait() == pytest.approx(10.0)
        await clock.advance(20.0)
    async with admission.slot(Deadline.after(clock, 100.0)):
        assert admission.expected_wait() == pytest.approx(12.0)


async def test_requests_that_failed_teach_nothing() -> None:
    """Requests that fail do not change the expected wait, however many they are."""
    clock, admission = ManualClock(), Admission(slots=1, max_waiting=2)
    await served(admission, clock, seconds=10.0)
    for _ in range(50):
        with pytest.raises(InvalidRequest):
            async with admission.slot(Deadline.after(clock, 100.0)):
                raise InvalidRequest
    async with admission.slot(Deadline.after(clock, 100.0)):
        assert admission.active == 1
        assert admission.expected_wait() == pytest.approx(10.0)
        with pytest.raises(Overloaded) as refused:
            async with admission.slot(Deadline.after(clock, 5.0)):
                pass
    assert refused.value.retry_after == pytest.approx(10.0)
    assert admission.expected_wait() == 0.0


async def test_long_queue_of_one_account_is_no_reason_to_refuse_another() -> None:
    """The expected wait of an account depends on its own requests only, and is 0 if a slot is reserved for it."""
    clock, admission = ManualClock(), Admission(slots=2, max_waiting=100)
    flood, other = Share(scope="A"), Share(scope="B")
    async with admission.slot(Deadline.after(clock, 100.0), other):
        await clock.advance(10.0)
    async with asyncio.TaskGroup() as group:

        async def work() -> None:
            async with admission.slot(Deadline.after(clock, 1000.0), flood):
                await clock.sleep(10)

        tasks = [group.create_task(work()) for _ in range(30)]
        await clock.advance(0)
        assert (admission.active, admission.waiting) == (1, 29)
        assert admission.expected_wait(flood) == pytest.approx(150.0)
        assert admission.expected_wait(other) == 0.0
        async with admission.slot(Deadline.after(clock, 1.0), other) as waited:
            assert waited == 0
            assert admission.expected_wait(Share(scope="C")) == pytest.approx(10.0)
        for task in tasks:
            task.cancel()
