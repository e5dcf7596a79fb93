"""Transactions that a cancellation never catches halfway through their beginning or end.

```
checkout, BEGIN   in a task of its own; abandoned meanwhile: rolled back as soon as it has begun
statements        in the caller's task; cancelled: the driver's connection is closed at once
COMMIT, ROLLBACK  in a task of its own; abandoned meanwhile: completed
```
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

T = TypeVar("T")


class Transactions:
    """Begins transactions, and owns the tasks that see them through."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def unfinished(self) -> int:
        """How many tasks are running, whether or not a caller waits for them."""
        return len(self._tasks)

    @asynccontextmanager
    async def begin(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        """One transaction; committed on leaving, rolled back on an exception."""
        transaction = engine.begin()
        connection = await self._entered(transaction)
        try:
            yield connection
        except BaseException as error:
            await self.finish(_left(transaction, error))
            raise
        await self.finish(_left(transaction, None))

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Do the work to its end, even if the caller is cancelled while waiting for it."""
        return await asyncio.shield(self._own(work))

    async def aclose(self) -> None:
        """Wait for everything under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _entered(
        self, transaction: AbstractAsyncContextManager[AsyncConnection]
    ) -> AsyncConnection:
        entering = self._own(_enter(transaction))
        try:
            return await asyncio.shield(entering)
        except asyncio.CancelledError as error:
            self._own(_undo(entering, transaction, error))
            raise

    def _own(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        # The reference kept here is what makes the task owned.
        task = asyncio.create_task(work)  # noqa: TID251
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _enter(transaction: AbstractAsyncContextManager[AsyncConnection]) -> AsyncConnection:
    return await transaction.__aenter__()


async def _left(
    transaction: AbstractAsyncContextManager[AsyncConnection], error: BaseException | None
) -> None:
    if error is None:
        await transaction.__aexit__(None, None, None)
    else:
        await transaction.__aexit__(type(error), error, error.__traceback__)


async def _undo(
    entering: asyncio.Task[AsyncConnection],
    transaction: AbstractAsyncContextManager[AsyncConnection],
    error: BaseException,
) -> None:
    await asyncio.wait([entering])
    if not entering.cancelled() and entering.exception() is None:
        await _left(transaction, error)
