"""Transactions whose beginning and end are not interrupted if the calling task is cancelled.

```
checkout, BEGIN   in a separate task; if the caller is cancelled: rolled back as soon as it has begun
statements        in the caller's task; if it is cancelled: the driver's connection is closed at once
COMMIT, ROLLBACK  in a separate task; if the caller is cancelled: completed
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
    """Begins and ends database transactions in tasks of their own, which continue if the calling task is cancelled."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def unfinished(self) -> int:
        """The number of tasks of this object that are running, whether or not a caller waits for them."""
        return len(self._tasks)

    @asynccontextmanager
    async def begin(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        """A context manager that gives a connection of `engine` in a transaction.

        It is committed on exit and rolled back on an exception, also if the task is cancelled within the block; a
        commit that has begun is completed even then. Errors of SQLAlchemy and the driver are raised unchanged.
        """
        transaction = engine.begin()
        connection = await self._entered(transaction)
        try:
            yield connection
        except BaseException as error:
            await self.finish(_left(transaction, error))
            raise
        await self.finish(_left(transaction, None))

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Run the coroutine `work` to its end, even if the calling task is cancelled; passes on result or exception.

        A cancelled caller gets `CancelledError` at once, while `work` goes on.
        """
        return await asyncio.shield(self._own(work))

    async def aclose(self) -> None:
        """Wait until all tasks of this object, which begin or end transactions or run `finish`, have ended."""
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
        # The event loop keeps only weak references to tasks; this set keeps them from being collected.
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
