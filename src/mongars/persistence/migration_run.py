"""The body of Alembic's `env.py`: applies all schema revisions in one transaction under a lock.

The lock is taken before the database's revision is read. So of two processes that migrate at once, the
second waits, finds nothing left to do, and succeeds. Because all revisions share the transaction, a failing
revision leaves the database exactly as it was, on SQLite too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic import context
from sqlalchemy import text

from mongars.core.errors import ConfigurationError
from mongars.persistence.sql_engines import migration_engine, prepare_file
from mongars.persistence.tables import metadata

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.schema import SchemaItem

    from mongars.persistence.config import DatabaseConfig

DATABASE = "database"
"""Key under which Alembic's `config.attributes` holds the `DatabaseConfig`."""

_LOCK_KEY = 0x6D6F6E47  # "monG"; any constant that no other program uses


def run_env(database: DatabaseConfig) -> None:
    """Run the migrations of the current Alembic command on this database, in one transaction under a lock.

    Called by Alembic's `env.py`. Raises `ConfigurationError` in Alembic's offline mode (`--sql`), because the
    conversion of embeddings depends on the data, and `StorageUnavailable` if the SQLite file cannot be created.
    """
    if context.is_offline_mode():
        msg = "Migrations need a connection; --sql cannot know the type of the vector column."
        raise ConfigurationError(msg)
    prepare_file(database)
    engine = migration_engine(database)
    try:
        with engine.begin() as connection:
            _lock(connection, database.startup_timeout)
            context.configure(
                connection=connection,
                target_metadata=metadata,
                transactional_ddl=True,
                render_as_batch=connection.dialect.name == "sqlite",
                include_object=_ours,
            )
            context.run_migrations()
    finally:
        engine.dispose()


def _lock(connection: Connection, seconds: float) -> None:
    """Lock out migrations by other processes until this transaction ends; wait at most `seconds` for a running one.

    After that, PostgreSQL reports a lock timeout, as an exception of SQLAlchemy. Later statements of the transaction
    wait at most 5 seconds for a lock. Does nothing on SQLite, where `BEGIN IMMEDIATE` has taken the lock.
    """
    if connection.dialect.name != "postgresql":
        return
    connection.execute(
        text("SELECT set_config('lock_timeout', :wait, true)"), {"wait": f"{int(seconds * 1000)}ms"}
    )
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
    # From here on, fail instead of waiting for a long reader, which would block all later transactions.
    connection.exec_driver_sql("SET LOCAL lock_timeout = '5s'")


def _ours(
    _item: SchemaItem, name: str | None, kind: str, _reflected: object, _other: object
) -> bool:
    """Whether Alembic compares the schema item `name` of type `kind` with the database: its `include_object` hook.

    True for all but the unique index on LOWER(username), which `tables` cannot declare for SQLite.
    """
    return not (kind == "index" and name == "ix_user_accounts_username_lower")
