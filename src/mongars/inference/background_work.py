"""The background work of providers, from the start of the process to its end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, Self

from mongars.core.observe import Note
from mongars.inference import log_events

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mongars.core.clock import Clock
    from mongars.core.observe import Observer
    from mongars.inference.provider import ProviderName

RESTART_PAUSE = 1.0
"""Seconds before a provider's failed background work is started again."""


class Worker(Protocol):
    """A provider with background work."""

    @property
    def name(self) -> ProviderName:
        """Its name in logs."""
        ...

    async def run(self) -> None:
        """The work, until cancelled; may return at once if there is none."""
        ...

    async def aclose(self) -> None:
        """Close connections and engines. Safe to call twice."""
        ...


class BackgroundWork:
    """Runs the work of all providers while the context is entered, then closes them."""

    def __init__(self, workers: Sequence[Worker], *, clock: Clock, observer: Observer) -> None:
        self._workers = workers
        self._clock = clock
        self._observer = observer
        self._tasks = asyncio.TaskGroup()
        self._running: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._running = [self._tasks.create_task(self._run(worker)) for worker in self._workers]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._running:
            task.cancel()
        try:
            await self._tasks.__aexit__(None, None, None)  # an exception of the body is not wrapped
        finally:
            for worker in self._workers:
                await worker.aclose()

    async def _run(self, worker: Worker) -> None:
        """The work of one provider, restarted if it fails, so that other work continues."""
        while True:
            try:
                await worker.run()
            except Exception as error:  # noqa: BLE001 (the one supervised boundary)
                crash = {"provider": worker.name, "error": type(error).__name__}
                self._observer.observe(Note(log=log_events.PROVIDER_CRASHED, values=crash))
            await self._clock.sleep(RESTART_PAUSE)
