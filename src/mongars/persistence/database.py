"""The application's access to the database: connection pools, transactions, health check."""

from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar

from sqlalchemy import inspect, text

from mongars.core.errors import StorageUnavailable
from mongars.persistence.driver_errors import storage_errors
from mongars.persistence.sql_engines import app_engines
from mongars.persistence.transactions import Transactions
from mongars.persistence.url import app_url, sqlite_path

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from pathlib import Path
    from types import TracebackType

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection

    from mongars.persistence.config import DatabaseConfig

T = TypeVar("T")

_HEALTH_SECONDS = 2.0
_WRITE_CHECK_SECONDS = 5.0
"""The least seconds between two health checks that write, since clients without credentials can trigger them."""
_WRITE_CHECK = text("UPDATE alembic_version SET version_num = version_num")


class Database:
    """The application's database, SQLite or PostgreSQL: transactions, health check and schema revision.

    It connects when first used; leaving its asynchronous context, or `aclose`, closes the connections. The constructor
    raises `ConfigurationError`, naming `DATABASE_URL`, if the URL is unusable. Transactions raise `StorageUnavailable`
    when the database fails, and after `aclose`.
    """

    def __init__(self, config: DatabaseConfig) -> None:
        self._writer, self._reader = app_engines(config)
        self._file = sqlite_path(app_url(config.url))
        self._identity: tuple[int, int] | None = None
        self._written_at = -math.inf
        self._closed = False
        self._transactions = Transactions()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A context manager that gives a connection in a transaction that may write.

        The transaction is committed on exit and rolled back on an exception. If the task is cancelled within the block,
        it is rolled back at once; a commit that has begun is completed. Raises `StorageUnavailable` if the database
        fails, is closed, or is a SQLite file that is missing or was replaced.
        """
        self._check_usable()
        with storage_errors():
            async with self._transactions.begin(self._writer) as connection:
                yield connection
        if self._file is not None:  # data written to a deleted file is lost
            self._check_file(self._file)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A context manager that gives a connection in a transaction for reading; on SQLite no writer delays it.

        Writing in it is not prevented, but not intended. The transaction ends with the block, also if the task is
        cancelled there. Raises `StorageUnavailable` if the database fails, is closed, or is a SQLite file that is
        missing or was replaced.
        """
        self._check_usable()
        with storage_errors():
            async with self._transactions.begin(self._reader) as connection:
                yield connection

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Run the coroutine `work` to its end, even if the calling task is cancelled; passes on result or exception.

        A cancelled caller gets `CancelledError` at once, while `work` goes on.
        """
        return await self._transactions.finish(work)

    async def healthy(self) -> None:
        """Return if the database can be read and written within two seconds. Raises `StorageUnavailable` if not.

        Writes at most every five seconds after a success; calls in between only read.
        """
        try:
            async with asyncio.timeout(_HEALTH_SECONDS):
                await self._answer()
        except TimeoutError as error:
            msg = f"The database did not answer within {_HEALTH_SECONDS:g} s."
            raise StorageUnavailable(msg) from error

    async def _answer(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._written_at < _WRITE_CHECK_SECONDS:
            async with self.reading() as connection:
                await connection.execute(text("SELECT 1"))
            return
        async with self.writing() as connection:
            await connection.execute(_WRITE_CHECK)
        self._written_at = now

    async def revision(self) -> str | None:
        """The id of the database's schema revision; None before the first migration.

        Raises `StorageUnavailable` if the database cannot be read.
        """
        async with self.reading() as connection:
            return await connection.run_sync(_revision)

    async def aclose(self) -> None:
        """Wait for transactions that are beginning or ending, then close the connections that no transaction uses.

        End all transactions before: the connection of an open one is closed only when it ends. Safe to call twice.
        Later transactions raise `StorageUnavailable`.
        """
        try:
            await self._transactions.aclose()
        finally:
            self._closed = True
            await self._reader.dispose()
            await self._writer.dispose()

    def _check_usable(self) -> None:
        if self._closed:
            msg = "The database has been closed."
            raise StorageUnavailable(msg)
        if self._file is not None:
            self._check_file(self._file)

    def _check_file(self, path: Path) -> None:
        """Raise `StorageUnavailable` if the SQLite file at `path` is missing or is not the file that was first used.

        SQLite itself would create an empty file, or continue to write to a deleted or replaced one.
        """
        try:
            found = path.stat()
        except OSError as error:
            msg = "The database file is missing; run init_db.py."
            raise StorageUnavailable(msg) from error
        identity = (found.st_dev, found.st_ino)
        self._identity = self._identity or identity
        if identity != self._identity:
            msg = "The database file was replaced while it was open. Restart this process."
            raise StorageUnavailable(msg)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    version: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return version
