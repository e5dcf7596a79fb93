"""Creating SQLAlchemy engines for the application and for migrations.

SQLite. The driver's own transaction handling is switched off (`isolation_level=None`), and the engine sends
`BEGIN` itself: `BEGIN IMMEDIATE` takes the write lock at once, where a deferred `BEGIN` would read, find
the lock taken on its first write, and fail. It also makes DDL transactional, so a failed migration changes
nothing. Reads use a plain `BEGIN` on a separate engine: in WAL mode they neither wait for the writer nor
make it wait. A connection whose task was cancelled is closed, and releases its locks at once
(`sqlite_connection`).

PostgreSQL. Connections are checked before use, renewed every half hour, and every statement is
limited to five seconds. Nothing depends on which server session a transaction runs in, so that a
pooler in transaction mode can be used: the limit is set in each transaction instead of at
connection start, and statements are not prepared unless the operator enables it.

Both. Error messages do not contain the values of a row, so conversations do not appear in logs.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Literal

from sqlalchemy import create_engine, event
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from mongars.core.clock import pause
from mongars.core.errors import StorageUnavailable
from mongars.core.optional import require
from mongars.persistence.sqlite_connection import LettingGo
from mongars.persistence.url import app_url, is_sqlite, migration_url, sqlite_path
from mongars.persistence.url_parameters import check_parameters

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import URL, Connection, Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.pool import ConnectionPoolEntry

    from mongars.persistence.config import DatabaseConfig

Begin = Literal["BEGIN", "BEGIN IMMEDIATE"]

_PRAGMAS: dict[str, object] = {
    "busy_timeout": 5000,
    "synchronous": "NORMAL",
    "foreign_keys": "ON",
}
_WAL_PAUSE_SECONDS = 0.02
_STATEMENT_MS = 5000
_CONNECT_SECONDS = 5
_RECYCLE_SECONDS = 1800


def app_engines(config: DatabaseConfig) -> tuple[AsyncEngine, AsyncEngine]:
    """The application's asynchronous SQLAlchemy engines: for writing and for reading; the same object on PostgreSQL.

    Opens no connection yet. Raises `ConfigurationError` for an unusable URL.
    """
    url = app_url(config.url)
    if not is_sqlite(url):
        engine = _postgresql(url, config)
        return engine, engine
    # One connection writes, so writers of this process queue fairly instead of polling a lock.
    writer = _sqlite(url, config, connections=1, overflow=0)
    reader = _sqlite(url, config, connections=config.pool_size, overflow=config.max_overflow)
    _set_up_sqlite(writer.sync_engine, "BEGIN IMMEDIATE", _PRAGMAS)
    _set_up_sqlite(reader.sync_engine, "BEGIN", _PRAGMAS)
    return writer, reader


def migration_engine(config: DatabaseConfig) -> Engine:
    """A synchronous SQLAlchemy engine without a connection pool, for migrations and checks.

    On SQLite it waits up to `startup_timeout` seconds for a lock (then SQLite's error that the database is locked), and
    foreign keys are off, because rebuilding a table drops the old one, which must not cascade. On PostgreSQL statements
    have no time limit. Raises `ConfigurationError` for an unusable URL.
    """
    url = migration_url(config.url)
    if not is_sqlite(url):
        # No statement timeout: converting a large table can take minutes.
        return _postgresql_once(url, config)
    engine = create_engine(url, poolclass=NullPool, hide_parameters=True)
    busy_timeout = int(config.startup_timeout * 1000)
    pragmas = _PRAGMAS | {"busy_timeout": busy_timeout, "foreign_keys": "OFF"}
    _set_up_sqlite(engine, "BEGIN IMMEDIATE", pragmas)
    _switch_to_wal(engine, config.startup_timeout)
    return engine


def read_only_engine(config: DatabaseConfig) -> Engine:
    """A synchronous SQLAlchemy engine without a connection pool that can only read and, on SQLite, creates no file.

    Raises `ConfigurationError` for an unusable URL.
    """
    url = migration_url(config.url)
    path = sqlite_path(url)
    if path is None:
        engine = _postgresql_once(url, config)
        _begin_with(engine, "SET TRANSACTION READ ONLY")
        return engine
    engine = create_engine(
        url, poolclass=NullPool, hide_parameters=True, creator=lambda: _existing(path)
    )
    _set_up_sqlite(engine, "BEGIN", {"busy_timeout": 5000, "query_only": "ON"})
    return engine


def prepare_file(config: DatabaseConfig) -> None:
    """Create the SQLite file of `config`, readable by its owner only, and its folder, if missing.

    Does nothing on PostgreSQL. Raises `StorageUnavailable` if they cannot be created.
    """
    path = sqlite_path(migration_url(config.url))
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError as error:
        msg = f"The database file {str(path)!r} cannot be created: {error.strerror}."
        raise StorageUnavailable(msg) from error


def _sqlite(url: URL, config: DatabaseConfig, *, connections: int, overflow: int) -> AsyncEngine:
    return create_async_engine(
        url,
        pool_size=connections,
        max_overflow=overflow,
        pool_timeout=config.pool_timeout,
        hide_parameters=True,
        connect_args={"factory": LettingGo},
    )


def _existing(path: Path) -> sqlite3.Connection:
    # Not `mode=ro`: closing that leaves the files of the write-ahead log behind.
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)


def _set_up_sqlite(engine: Engine, begin: Begin, pragmas: dict[str, object]) -> None:
    """Make a SQLite engine set `pragmas` (value by name) on every connection.

    It begins every transaction with the statement `begin`, such as `BEGIN IMMEDIATE`.
    """

    def on_connect(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for name, value in pragmas.items():
            cursor.execute(f"PRAGMA {name}={value}")
        cursor.close()

    event.listen(engine, "connect", on_connect)
    _begin_with(engine, begin)


def _begin_with(engine: Engine, statement: str) -> None:
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(statement)

    event.listen(engine, "begin", on_begin)


def _switch_to_wal(engine: Engine, seconds: float) -> None:
    """Make each new connection of `engine` switch the SQLite file to WAL mode, which stays in effect for the file.

    It retries for `seconds` while the file is locked, and then raises SQLite's error: SQLite does not apply the busy
    timeout to this switch when two connections attempt it at once.
    """

    def on_connect(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        tries = max(1, int(seconds / _WAL_PAUSE_SECONDS))
        for left in reversed(range(tries)):
            try:
                cursor.execute("PRAGMA journal_mode=WAL")
                break
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or not left:
                    raise
            pause(_WAL_PAUSE_SECONDS)
        cursor.close()

    event.listen(engine, "connect", on_connect)


def _postgresql(url: URL, config: DatabaseConfig) -> AsyncEngine:
    engine = create_async_engine(
        url,
        hide_parameters=True,
        pool_pre_ping=True,
        pool_recycle=_RECYCLE_SECONDS,
        pool_size=config.pool_size,
        max_overflow=config.max_overflow,
        pool_timeout=config.pool_timeout,
        connect_args=_arguments(url, config),
    )
    event.listen(engine.sync_engine, "handle_error", _hide_row)
    if "options" not in url.query:  # `options` may set the operator's own limit
        _begin_with(engine.sync_engine, f"SET LOCAL statement_timeout = {_STATEMENT_MS}")
    return engine


def _postgresql_once(url: URL, config: DatabaseConfig) -> Engine:
    engine = create_engine(
        url, poolclass=NullPool, hide_parameters=True, connect_args=_arguments(url, config)
    )
    event.listen(engine, "handle_error", _hide_row)
    return engine


def _hide_row(context: ExceptionContext) -> None:
    """Remove from an error's messages the detail in which PostgreSQL quotes values of a row (an event handler)."""
    diagnosis = getattr(context.original_exception, "diag", None)
    detail = None if diagnosis is None else diagnosis.message_detail
    if detail is None:
        return
    for error in (context.original_exception, context.sqlalchemy_exception):
        if error is not None:
            error.args = tuple(str(part).replace(detail, "(not shown)") for part in error.args)


def _arguments(url: URL, config: DatabaseConfig) -> dict[str, str | int | None]:
    """The keyword arguments with which psycopg connects; parameters in the URL take precedence.

    Raises `ConfigurationError` if psycopg is not installed, or for a URL parameter that PostgreSQL does not have.
    """
    require("psycopg", extra="postgres")
    check_parameters(url)
    arguments: dict[str, str | int | None] = {}
    if not config.prepared_statements:
        arguments["prepare_threshold"] = None
    if "connect_timeout" not in url.query:
        arguments["connect_timeout"] = _CONNECT_SECONDS
    return arguments
