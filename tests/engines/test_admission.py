"""The queue's idea of how long it is."""

from __future__ import annotations

import pytest

from mongars.core.deadline import Deadline
from mongars.core.errors import InvalidRequest, Overloaded
from mongars.engines.admission import Admission
from mongars.testing.clock import ManualClock


async def served(admission: Admission, clock: ManualClock, *, seconds: float) -> None:
    async with admission.slot(Deadline.after(clock, 100.0)):
        await clock.advance(seconds)


async def test_expected_wait_is_a_running_average_of_complete_answers() -> None:
    """The first answer sets it, later ones move it."""
    clock, admission = ManualClock(), Admission(slots=1, max_waiting=2)
    await served(admission, clock, seconds=10.0)
    async with admission.slot(Deadline.after(clock, 100.0)):
        assert admission.expected_wait == pytest.approx(10.0)
        await clock.advance(20.0)
    async with admission.slot(Deadline.after(clock, 100.0)):
        assert admission.expected_wait == pytest.approx(12.0)


async def test_requests_that_failed_teach_nothing() -> None:
    """A thousand refusals a second do not make the queue look short."""
    clock, admission = ManualClock(), Admission(slots=1, max_waiting=2)
    await served(admission, clock, seconds=10.0)
    for _ in range(50):
        with pytest.raises(InvalidRequest):
            async with admission.slot(Deadline.after(clock, 100.0)):
                raise InvalidRequest
    async with admission.slot(Deadline.after(clock, 100.0)):
        assert admission.active == 1
        assert admission.expected_wait == pytest.approx(10.0)
        with pytest.raises(Overloaded) as refused:
            async with admission.slot(Deadline.after(clock, 5.0)):
                pass
    assert refused.value.retry_after == pytest.approx(10.0)
    assert admission.expected_wait == 0.0
