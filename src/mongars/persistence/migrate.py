"""Running schema migrations from within the program: synchronous functions, callable from any thread."""

from __future__ import annotations

import math
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from mongars.core.clock import SystemClock, pause
from mongars.core.errors import ConfigurationError, StorageUnavailable
from mongars.persistence.driver_errors import storage_errors
from mongars.persistence.migration_run import DATABASE
from mongars.persistence.sql_engines import migration_engine, prepare_file, read_only_engine
from mongars.persistence.url import migration_url, sqlite_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mongars.core.clock import Clock
    from mongars.persistence.config import DatabaseConfig

_MIGRATIONS = Path(__file__).parent / "migrations"


_REPORT_SECONDS = 10.0
_FINAL = (
    "does not exist",
    "password authentication failed",
    "no pg_hba.conf entry",
    "no such database",
)


def _unheard(_: str) -> None:
    """Ignore a progress message: the default of `wait_for_database`'s `report`."""


def upgrade(database: DatabaseConfig, revision: str = "head") -> None:
    """Migrate the database to the schema revision `revision`, by default the newest; on an error it stays unchanged.

    Safe to call from several processes at once: one migrates, the others wait and have nothing to do.

    Raises:
        ConfigurationError: The URL is unusable, there is no such revision, the database is newer than this program, or
            its data or views prevent the migration.
        StorageUnavailable: The database cannot be reached, locked or written.
    """
    with _migration_errors():
        command.upgrade(alembic_config(database), revision)


def downgrade(database: DatabaseConfig, revision: str) -> None:
    """Migrate the database back to the schema revision with the id `revision`; on an error it stays unchanged.

    `base` means the state before the first migration: all tables and their data are dropped. Raises
    `ConfigurationError` if the URL is unusable, there is no such revision, or the database's data or views prevent
    that; `StorageUnavailable` if it cannot be reached, locked or written.
    """
    with _migration_errors():
        command.downgrade(alembic_config(database), revision)


def current(database: DatabaseConfig) -> str | None:
    """The id of the database's schema revision; None before the first migration, or if the SQLite file is missing.

    Changes nothing, and on SQLite waits for no writer. Raises `ConfigurationError` for an unusable URL,
    `StorageUnavailable` if the database cannot be read.
    """
    path = sqlite_path(migration_url(database.url))
    if path is not None and not path.exists():
        return None
    engine = read_only_engine(database)
    try:
        with storage_errors(), engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()


def head() -> str:
    """The id of the newest schema revision that this program has."""
    script = ScriptDirectory(str(_MIGRATIONS))
    return script.get_current_head() or ""


def wait_for_database(
    database: DatabaseConfig,
    *,
    wait: Callable[[float], None] = pause,
    report: Callable[[str], None] = _unheard,
    clock: Clock | None = None,
) -> None:
    """Wait until the database accepts a connection; a SQLite file is created if it is missing.

    Tries every `startup_retry_interval` seconds, for `startup_timeout` seconds at most. Calls `report` with a message
    at the first failure and then about every ten seconds. `wait` sleeps for the given number of seconds; `clock` None:
    the system's clock.

    Raises:
        ConfigurationError: The URL is unusable.
        StorageUnavailable: The database did not answer in time, with the last failure as the cause; or, at
            once, the server reports a wrong password or a database that does not exist, or the SQLite file
            cannot be created.
    """
    prepare_file(database)
    engine = migration_engine(database)
    clock = clock or SystemClock()
    started = clock.monotonic()
    end = started + database.startup_timeout
    reported = -math.inf
    try:
        while True:
            try:
                with storage_errors(), engine.connect() as connection:
                    connection.execute(text("SELECT 1"))
                    return
            except StorageUnavailable as error:
                now = clock.monotonic()
                reason = f"{error} {_driver_text(error)}".strip()
                if _is_final(error):
                    raise StorageUnavailable(reason) from error
                if now + database.startup_retry_interval > end:
                    msg = f"No database within {database.startup_timeout:g} s: {reason}"
                    raise StorageUnavailable(msg) from error
                if now - reported >= _REPORT_SECONDS:
                    reported = now
                    left = f"{end - now:.0f} s left of DB_STARTUP_TIMEOUT"
                    report(f"Waiting for the database ({left}): {reason}")
            wait(database.startup_retry_interval)
    finally:
        engine.dispose()


def _is_final(error: StorageUnavailable) -> bool:
    """Whether `error` means that PostgreSQL refused the connection for a permanent reason, such as a wrong password.

    libpq has no SQLSTATE for a failed connection, so this compares the server's message. A server whose messages are
    not in English counts as one that is still starting.
    """
    text = _driver_text(error)
    return "FATAL" in text and any(words in text for words in _FINAL)


def _driver_text(error: StorageUnavailable) -> str:
    """The message of the driver's error behind `error`, empty if there is none; it may contain host and user names."""
    cause = error.__cause__
    return str(cause.orig).strip() if isinstance(cause, DBAPIError) else ""


@contextmanager
def _migration_errors() -> Iterator[None]:
    try:
        with storage_errors():
            yield
    except CommandError as error:
        msg = f"The database cannot be migrated by this version of the program: {error}"
        raise ConfigurationError(msg) from error
    except DBAPIError as error:
        msg = f"The migration failed and left the database as it was: {error.orig}"
        raise ConfigurationError(msg) from error


def alembic_config(database: DatabaseConfig) -> Config:
    """Alembic's configuration with monGARS' migrations and this database.

    For Alembic commands that have no function in this module.
    """
    config = Config()
    # ConfigParser interpolates, so a percent sign in a path has to be doubled.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes[DATABASE] = database
    return config
