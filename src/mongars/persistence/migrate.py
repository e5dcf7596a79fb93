"""Migrations from within the program: synchronous, callable from any thread."""

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
    """For callers that report nothing."""


def upgrade(database: DatabaseConfig, revision: str = "head") -> None:
    """Bring the database up to `revision`, or leave it untouched.

    Safe to call from several processes at once: one migrates, the others wait and find it done.

    Raises:
        ConfigurationError: The URL is unusable, the database is newer than this program, or what
            it holds stands in the way.
        StorageUnavailable: The database cannot be reached, locked or written.
    """
    with _migration_errors():
        command.upgrade(alembic_config(database), revision)


def downgrade(database: DatabaseConfig, revision: str) -> None:
    """Take the database back to `revision`, or leave it untouched. Raises like `upgrade`."""
    with _migration_errors():
        command.downgrade(alembic_config(database), revision)


def current(database: DatabaseConfig) -> str | None:
    """The revision the database has; None before the first migration. Raises like `upgrade`.

    Changes nothing, and on SQLite waits for no writer.
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
    """The newest revision this program knows."""
    script = ScriptDirectory(str(_MIGRATIONS))
    return script.get_current_head() or ""


def wait_for_database(
    database: DatabaseConfig,
    *,
    wait: Callable[[float], None] = pause,
    report: Callable[[str], None] = _unheard,
    clock: Clock | None = None,
) -> None:
    """Return once the database answers; an SQLite file that can be made is an answer.

    Tries every `startup_retry_interval` seconds, never waiting past `startup_timeout`. `report` is
    given a line at the first failure and every ten seconds after it. What waiting cannot mend, a
    database that does not exist or a wrong password, is raised at once.

    Raises:
        ConfigurationError: The URL is unusable.
        StorageUnavailable: It did not answer in time; the last failure is the cause.
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
    """Whether the server itself refused for good.

    libpq has no SQLSTATE for a connection that was not made, so these are the server's own words; a
    server that speaks another language than English is waited for like one that is starting.
    """
    text = _driver_text(error)
    return "FATAL" in text and any(words in text for words in _FINAL)


def _driver_text(error: StorageUnavailable) -> str:
    """The driver's own message, for operators only: it names the host and the reason."""
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
    """Alembic's own configuration for that database, for commands not offered here."""
    config = Config()
    # ConfigParser interpolates, so a percent sign in a path has to be doubled.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes[DATABASE] = database
    return config
