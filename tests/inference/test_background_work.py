"""`BackgroundWork`: what happens to the other workers when one fails to close."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mongars.core.observe import Silent
from mongars.inference.background_work import BackgroundWork, Worker
from mongars.testing.manual_clock import ManualClock

if TYPE_CHECKING:
    from mongars.inference.provider import ProviderName


class Closing(Worker):
    """A worker that waits until cancelled; closing it is noted in `closed` and raises `error`, if there is one."""

    def __init__(
        self, closed: list[str], name: ProviderName, error: Exception | None = None
    ) -> None:
        self._closed = closed
        self._name = name
        self._error = error

    @property
    def name(self) -> ProviderName:
        return self._name

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def aclose(self) -> None:
        self._closed.append(self._name)
        if self._error is not None:
            raise self._error


async def test_workers_are_closed_in_order_even_if_one_fails_to() -> None:
    """If closing the first worker raises, the others are closed as well, in their order, and the error is raised."""
    closed: list[str] = []
    workers = (
        Closing(closed, "ray_serve", OSError("the connection pool is broken")),
        Closing(closed, "ollama"),
        Closing(closed, "embedded"),
    )
    with pytest.raises(OSError, match="connection pool"):
        async with BackgroundWork(workers, clock=ManualClock(), observer=Silent()):
            pass
    assert closed == ["ray_serve", "ollama", "embedded"]
