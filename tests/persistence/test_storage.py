"""Failures of storage: missing, replaced, full, locked and read-only databases, and cancelled requests."""

from __future__ import annotations

import asyncio
import sqlite3
import traceback
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError

from mongars.conversation.history import NewTurn
from mongars.core.clock import SystemClock
from mongars.core.errors import ConfigurationError, StorageUnavailable
from mongars.persistence.config import DatabaseConfig
from mongars.persistence.conversations import SqlConversations
from mongars.persistence.database import Database
from mongars.persistence.migrate import head, upgrade
from mongars.persistence.sql_engines import migration_engine
from mongars.persistence.tables import user_accounts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TURN = NewTurn(user_id="ada", query="q" * 5000, response="r" * 5000)


async def pragma(database: Database, statement: str) -> None:
    """Execute a PRAGMA on the only writing connection."""
    async with database.writing() as connection:
        await connection.execute(text(f"PRAGMA {statement}"))


async def test_a_healthy_database_says_so(database: Database) -> None:
    """A migrated database is healthy, and its revision is the newest."""
    await database.healthy()
    assert await database.revision() == head()


async def test_an_empty_database_has_no_revision(
    make_config: Callable[[str], DatabaseConfig],
) -> None:
    """A database before its first migration has the revision None, which is no error."""
    async with Database(make_config("postgresql")) as database:
        assert await database.revision() is None


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_missing_table_says_what_to_run(
    kind: str, make_config: Callable[[str], DatabaseConfig], tmp_path: Path
) -> None:
    """For a database that was never migrated, the error names the command that migrates it."""
    config = make_config(kind)
    if kind == "sqlite":
        (tmp_path / "mongars.db").touch()
    async with Database(config) as database:
        with pytest.raises(StorageUnavailable, match=r"table.*init_db\.py"):
            await SqlConversations(database, SystemClock()).latest("ada", limit=1)


async def test_an_unreachable_server_is_storage_unavailable() -> None:
    """A refused connection raises `StorageUnavailable`, caused by the driver's error and without the password."""
    config = DatabaseConfig(url="postgresql://nobody:s3cret@127.0.0.1:1/none")
    async with Database(config) as database:
        with pytest.raises(StorageUnavailable, match="cannot be reached") as caught:
            await database.healthy()
    assert isinstance(caught.value.__cause__, DBAPIError)
    assert "s3cret" not in str(caught.value)


async def test_a_missing_file_is_not_replaced_by_an_empty_one(
    sqlite_database: Database, tmp_path: Path
) -> None:
    """If the SQLite file is missing, an error is raised and no new file is created."""
    path = tmp_path / "mongars.db"
    await sqlite_database.healthy()
    path.unlink()
    for database in (sqlite_database, Database(DatabaseConfig(url=f"sqlite:///{path}"))):
        with pytest.raises(StorageUnavailable, match="file is missing"):
            await SqlConversations(database, SystemClock()).append(TURN)
    assert not path.exists()


async def test_a_replaced_file_loses_no_acknowledged_turn(
    sqlite_database: Database, tmp_path: Path
) -> None:
    """After the SQLite file was replaced by another, reads, writes and the health check fail."""
    path = tmp_path / "mongars.db"
    conversations = SqlConversations(sqlite_database, SystemClock())
    await conversations.append(TURN)
    upgrade(DatabaseConfig(url=f"sqlite:///{tmp_path}/other.db"))
    (tmp_path / "other.db").replace(path)
    with pytest.raises(StorageUnavailable, match="was replaced"):
        await conversations.append(TURN)
    with pytest.raises(StorageUnavailable, match="was replaced"):
        await conversations.latest("ada", limit=1)
    with pytest.raises(StorageUnavailable, match="was replaced"):
        await sqlite_database.healthy()


async def test_a_file_replaced_during_a_write_is_noticed_before_the_answer(
    sqlite_database: Database, tmp_path: Path
) -> None:
    """If the SQLite file is replaced during a transaction, the commit is reported as failed."""
    path = tmp_path / "mongars.db"
    await sqlite_database.healthy()
    upgrade(DatabaseConfig(url=f"sqlite:///{tmp_path}/other.db"))

    async def write() -> None:
        async with sqlite_database.writing() as connection:
            await connection.execute(text("SELECT 1"))
            (tmp_path / "other.db").replace(path)

    with pytest.raises(StorageUnavailable, match="was replaced"):
        await write()


async def test_a_database_that_cannot_be_written_is_not_healthy(
    sqlite_database: Database,
) -> None:
    """A SQLite database that can be read but not written is not healthy."""
    await pragma(sqlite_database, "query_only=ON")
    with pytest.raises(StorageUnavailable, match="read-only"):
        await sqlite_database.healthy()


async def test_a_read_only_server_is_not_healthy(
    make_config: Callable[[str], DatabaseConfig],
) -> None:
    """A PostgreSQL server that is read-only, such as a standby, is not healthy."""
    config = make_config("postgresql")
    upgrade(config)
    async with Database(config) as database:
        await database.healthy()
        async with database.writing() as connection:
            name = await connection.scalar(text("SELECT current_database()"))
            statement = f"ALTER DATABASE {name} SET default_transaction_read_only = on"
            await connection.execute(text(statement))
    async with Database(config) as database:
        with pytest.raises(StorageUnavailable, match="read-only"):
            await database.healthy()


def test_a_file_that_cannot_be_opened_is_storage_unavailable(tmp_path: Path) -> None:
    """A folder in place of the database file is reported as `StorageUnavailable`."""
    with pytest.raises(StorageUnavailable, match="cannot be opened"):
        upgrade(DatabaseConfig(url=f"sqlite:///{tmp_path}"))


async def test_a_file_that_is_no_database_is_storage_unavailable(tmp_path: Path) -> None:
    """A file that is not a SQLite database is reported and not overwritten."""
    path = tmp_path / "letter.txt"
    path.write_text("Dear Ada, " * 500)
    config = DatabaseConfig(url=f"sqlite:///{path}")
    async with Database(config) as database:
        with pytest.raises(StorageUnavailable, match="no SQLite database"):
            await database.healthy()
    with pytest.raises(StorageUnavailable, match="no SQLite database"):
        upgrade(config)
    assert path.read_text().startswith("Dear Ada")


async def test_a_full_disk_is_storage_unavailable(sqlite_database: Database) -> None:
    """If the disk is full, nothing is stored, and the turns stored before can still be read."""
    conversations = SqlConversations(sqlite_database, SystemClock())
    stored = await conversations.append(TURN)
    await pragma(sqlite_database, "max_page_count=1")  # SQLite then adds no page
    with pytest.raises(StorageUnavailable, match="disk is full"):
        await conversations.append(replace(TURN, query="q" * 100_000))
    assert (await conversations.latest("ada", limit=10))[-1] == stored


async def test_a_read_only_database_is_storage_unavailable(sqlite_database: Database) -> None:
    """On a read-only SQLite database, writing raises `StorageUnavailable` and reading works."""
    await pragma(sqlite_database, "query_only=ON")
    conversations = SqlConversations(sqlite_database, SystemClock())
    with pytest.raises(StorageUnavailable, match="read-only"):
        await conversations.append(TURN)
    assert await conversations.latest("ada", limit=10) == ()


async def test_a_read_only_server_is_storage_unavailable(
    make_config: Callable[[str], DatabaseConfig],
) -> None:
    """On a read-only PostgreSQL server, writing raises `StorageUnavailable`."""
    config = make_config("postgresql")
    upgrade(config)
    async with Database(config) as database:
        async with database.writing() as connection:
            await connection.execute(
                text("SELECT set_config('default_transaction_read_only', 'on', false)")
            )
        with pytest.raises(StorageUnavailable, match="read-only"):
            await SqlConversations(database, SystemClock()).append(TURN)


async def test_a_locked_database_is_storage_unavailable(
    sqlite_database: Database, tmp_path: Path
) -> None:
    """While another process has the write lock, writing fails after the busy timeout, and reading works."""
    await pragma(sqlite_database, "busy_timeout=20")
    conversations = SqlConversations(sqlite_database, SystemClock())
    with closing(sqlite3.connect(tmp_path / "mongars.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageUnavailable, match="locked"):
            await conversations.append(TURN)
        assert await conversations.latest("ada", limit=10) == ()
    assert await conversations.append(TURN)


@pytest.mark.slow
async def test_a_taken_pool_is_storage_unavailable(sqlite_database: Database) -> None:
    """If no connection becomes free within the pool's timeout, `StorageUnavailable` is raised."""
    async with sqlite_database.writing():
        with pytest.raises(StorageUnavailable, match="connection is taken"):
            async with sqlite_database.writing():
                pass


async def test_our_own_mistakes_are_not_disguised(database: Database) -> None:
    """Violated constraints and faulty SQL raise SQLAlchemy's errors, not `StorageUnavailable`."""
    with pytest.raises(IntegrityError):
        async with database.writing() as connection:
            await connection.execute(text("INSERT INTO memory_entries (id) VALUES (1)"))
    with pytest.raises((ProgrammingError, DBAPIError), match="syntax"):
        async with database.reading() as connection:
            await connection.execute(text("SELEKT 1"))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize(
    "lacking", [None, "password_hash"], ids=["exists already", "lacks a value"]
)
async def test_errors_do_not_quote_the_row(
    make_config: Callable[[str], DatabaseConfig], kind: str, lacking: str | None
) -> None:
    """An error about a refused row contains no value of it, neither as a parameter nor in PostgreSQL's detail."""
    config = make_config(kind)
    upgrade(config)
    row = {"username": "planted-name", "password_hash": "planted-hash"}
    async with Database(config) as database:
        async with database.writing() as connection:
            await connection.execute(insert(user_accounts).values(row))
        refused = insert(user_accounts).values({**row, lacking: None} if lacking else row)
        with pytest.raises(IntegrityError) as caught:
            async with database.writing() as connection:
                await connection.execute(refused)
    with pytest.raises(IntegrityError) as also, migration_engine(config).begin() as connection:
        connection.execute(refused)
    for error in (caught, also):
        shown = "".join(traceback.format_exception(error.value))
        assert "user_accounts" in shown
        assert "planted" not in shown


async def test_a_failed_transaction_leaves_nothing(database: Database) -> None:
    """A transaction that ends with an exception stores nothing."""

    async def insert_then_fail() -> None:
        async with database.writing() as connection:
            await connection.execute(text("INSERT INTO emotion_trends (emotion) VALUES ('calm')"))
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        await insert_then_fail()
    async with database.reading() as connection:
        assert (await connection.execute(text("SELECT * FROM emotion_trends"))).all() == []


async def test_a_cancelled_writer_frees_its_place(database: Database) -> None:
    """Cancelling a task in a transaction undoes the transaction, and the next write succeeds."""
    inside = asyncio.Event()

    async def write_and_wait() -> None:
        async with database.writing() as connection:
            await connection.execute(text("INSERT INTO emotion_trends (emotion) VALUES ('calm')"))
            inside.set()
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(write_and_wait())
        await inside.wait()
        task.cancel()
    conversations = SqlConversations(database, SystemClock())
    assert await conversations.append(TURN)
    async with database.reading() as connection:
        assert (await connection.execute(text("SELECT * FROM emotion_trends"))).all() == []


async def test_a_closed_database_is_storage_unavailable(sqlite_database: Database) -> None:
    """After closing the database, also twice, every use raises `StorageUnavailable`."""
    await sqlite_database.aclose()
    await sqlite_database.aclose()
    with pytest.raises(StorageUnavailable, match="closed"):
        await sqlite_database.healthy()


def test_a_bad_url_stops_the_start() -> None:
    """An unusable URL is refused when the `Database` is created, not at the first request."""
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        Database(DatabaseConfig(url="nonsense"))
