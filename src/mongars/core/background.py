"""A background task with an owner: the object that starts it also ends it and gets its error.

`asyncio.TaskGroup` must be left by the task that entered it, so objects whose `start` and `aclose` are called
from different tasks (a replica, an engine) use this class instead.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class Background:
    """A background task with an owner: runs the coroutine function `work` as an asyncio task named `name`.

    The task runs from `start` until it ends by itself or `aclose` cancels it. An error of the task is raised by
    `finished` and `aclose`, nowhere else.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]], *, name: str) -> None:
        self._work = work
        self._name = name
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether the task was started and has not ended."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Call `work` and run it as a task; does nothing if it is running already. Can be repeated after its end."""
        if not self.running:
            # asyncio itself keeps only a weak reference to the task.
            self._task = asyncio.create_task(self._work(), name=self._name)  # noqa: TID251

    async def finished(self) -> None:
        """Wait until the task ends, and raise the exception with which it ended, if any.

        Raises `asyncio.CancelledError` if the task is cancelled. Cancelling this wait cancels the task, too. Returns at
        once if the task was not started.
        """
        if self._task is not None:
            await self._task

    async def aclose(self) -> None:
        """Cancel the task, if it runs, and wait for its end; does nothing if it was not started.

        Raises the exception with which the task failed, if it did; being cancelled is no failure.
        """
        task, self._task = self._task, None
        if task is None:
            return
        stopped: asyncio.CancelledError | None = None
        while not task.done():
            task.cancel()
            # Not `await task`: a cancelled task could not be distinguished from a cancelled caller.
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as stop:
                stopped = stop  # raised below, after the task has ended
        if stopped is not None:
            raise stopped
        if not task.cancelled():
            task.result()
