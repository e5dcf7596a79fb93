"""Runs the background tasks of all providers for the lifetime of the process, and restarts those that fail."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Protocol, Self

from mongars.core.observe import Note
from mongars.inference import log_events

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mongars.core.clock import Clock
    from mongars.core.observe import Observer
    from mongars.inference.provider import ProviderName

RESTART_PAUSE = 1.0
"""Seconds between the end of a provider's `run`, normal or by an exception, and its next call."""


class Worker(Protocol):
    """A provider of answers or vectors with a background coroutine `run`, closed at shutdown by `BackgroundWork`."""

    @property
    def name(self) -> ProviderName:
        """The provider's name in logs."""
        ...

    async def run(self) -> None:
        """Run this provider's background work, such as probing endpoints, until cancelled; may return at once."""
        ...

    async def aclose(self) -> None:
        """Close all connections and engines of this provider; requests in progress then fail. Safe to call twice."""
        ...


class BackgroundWork:
    """Async context manager that runs the coroutine `run` of each worker in a task of its own.

    Entering starts the tasks. A `run` that ends or raises is called again after `RESTART_PAUSE` (1 s). On exit, the
    tasks are cancelled and awaited, and then the `aclose` of each worker is called, even if that of another one raises.
    """

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
        async with AsyncExitStack() as closing:
            for worker in reversed(self._workers):  # the stack calls them in reverse order
                closing.push_async_callback(worker.aclose)
            await self._tasks.__aexit__(None, None, None)  # an exception of the body is not wrapped

    async def _run(self, worker: Worker) -> None:
        """Call `worker.run()` again and again until cancelled, each time `RESTART_PAUSE` seconds after it ended.

        An exception of `run` is emitted as the log event `llm.provider.crashed` and not raised; other workers are not
        affected.
        """
        while True:
            try:
                await worker.run()
            except Exception as error:  # noqa: BLE001 (the one supervised boundary)
                crash = {"provider": worker.name, "error": type(error).__name__}
                self._observer.observe(Note(log=log_events.PROVIDER_CRASHED, values=crash))
            await self._clock.sleep(RESTART_PAUSE)
