"""Requests cancelled at any moment leave no lock, no lost connection and no lost turn."""

from __future__ import annotations

import asyncio
import gc
import random
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from mongars.conversation.history import NewTurn
from mongars.core.clock import SystemClock
from mongars.core.errors import StorageUnavailable
from mongars.persistence.conversations import SqlConversations
from mongars.persistence.sqlite_connection import LettingGo
from support import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from mongars.persistence.database import Database

TURN = NewTurn(user_id="ada", query="q" * 200, response="r" * 200)
COUNT = text("SELECT count(*) FROM conversation_history")
CHANCE = random.Random(20261123)  # noqa: S311


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Switch the garbage collector off: clean-up must not depend on it."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def write(database: Database) -> None:
    """A transaction with several statements, one of which returns rows."""
    async with database.writing() as connection:
        query = "INSERT INTO emotion_trends (emotion) VALUES ('calm') RETURNING id"
        await connection.execute(text(query))
        await connection.execute(COUNT)


async def read(database: Database) -> None:
    """A transaction that reads twice."""
    async with database.reading() as connection:
        await connection.execute(text("SELECT * FROM conversation_history"))
        await connection.execute(COUNT)


async def append(database: Database) -> None:
    """Store a turn, as every answer does at its end."""
    await SqlConversations(database, SystemClock()).append(TURN)


async def break_off(work: Callable[[Database], Awaitable[None]], database: Database) -> None:
    """Start the work and cancel it after some milliseconds, sometimes repeatedly, as anyio does."""
    clock = SystemClock()

    async def begin() -> None:
        await work(database)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(begin())
        await clock.sleep(CHANCE.uniform(0, 0.006))
        for _ in range(CHANCE.choice((1, 1, 5))):
            task.cancel()
            await clock.sleep(0)


def checked_out(database: Database) -> int:
    """The number of connections that are checked out of the pools."""
    pools = {engine.sync_engine.pool for engine in (database._writer, database._reader)}
    return sum(pool.checkedout() for pool in pools)


@pytest.mark.slow
@pytest.mark.usefixtures("no_collector")
async def test_clients_that_leave_lock_nobody_out(database: Database, tmp_path: Path) -> None:
    """After each of 120 rounds of cancelled transactions a write succeeds within 1 s, and no connection is lost."""
    await append(database)
    for _ in range(120):
        async with asyncio.TaskGroup() as group:
            for work in CHANCE.choices((write, read, append), k=3):
                group.create_task(break_off(work, database))
        async with asyncio.timeout(1):
            await write(database)
    await eventually(lambda: not database._transactions.unfinished, seconds=5)
    assert checked_out(database) == 0
    if (tmp_path / "mongars.db").exists():
        with closing(sqlite3.connect(tmp_path / "mongars.db", isolation_level=None)) as other:
            assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            # No abandoned reader prevents the checkpoint of the write-ahead log.
            assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)


async def test_an_abandoned_turn_is_stored_nevertheless(database: Database) -> None:
    """A turn is stored even if its request is cancelled while the turn is being stored."""
    clock = SystemClock()
    for _ in range(20):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(append(database))
            await clock.sleep(0)  # the task has begun
            await clock.sleep(CHANCE.uniform(0, 0.004))
            task.cancel()
    await eventually(lambda: not database._transactions.unfinished, seconds=5)
    async with database.reading() as connection:
        assert await connection.scalar(COUNT) == 20


async def test_closing_waits_for_an_abandoned_turn(sqlite_database: Database) -> None:
    """Closing the database waits for a turn whose request was cancelled before the turn was written."""
    history = SqlConversations(sqlite_database, SystemClock())
    async with sqlite_database.writing(), asyncio.TaskGroup() as group:
        task = group.create_task(history.append(TURN))
        await SystemClock().sleep(0)  # the task waits for the only writing connection
        task.cancel()
    await sqlite_database.aclose()
    path = sqlite_database._file
    assert path is not None
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute(str(COUNT)).fetchone() == (1,)
    with pytest.raises(StorageUnavailable, match="closed"):
        await history.append(TURN)


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(
    "statement",
    ["INSERT INTO t VALUES (1), (2) RETURNING a", "SELECT 1 FROM sqlite_master UNION ALL SELECT 2"],
    ids=["writing", "reading"],
)
def test_a_closed_connection_holds_no_lock(tmp_path: Path, statement: str) -> None:
    """Closing a connection ends its transaction although a cursor is still open; closing it twice is allowed."""
    path = tmp_path / "file.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("CREATE TABLE t (a)")
    connection = sqlite3.connect(path, isolation_level=None, factory=LettingGo)
    connection.execute("BEGIN IMMEDIATE")
    cursor = connection.cursor()
    cursor.execute(statement)
    cursor.fetchone()
    connection.close()
    connection.close()
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other:
        other.execute("INSERT INTO t VALUES (3)")
        assert other.execute("SELECT count(*) FROM t").fetchone() == (1,)
        assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
    with pytest.raises(sqlite3.ProgrammingError):
        cursor.fetchone()
