"""What Alembic runs inside its `env.py`: one locked transaction around every revision it applies.

The lock comes first, then the question which revision the database has. So of two processes that
migrate at once the second waits, finds nothing left to do, and succeeds. And because all revisions
share that transaction, a failing one leaves the database exactly as it was, on SQLite too.
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
"""Key of the `DatabaseConfig` among Alembic's `config.attributes`."""

_LOCK_KEY = 0x6D6F6E47  # "monG"; any constant that no other program uses


def run_env(database: DatabaseConfig) -> None:
    """Run what the surrounding Alembic command wants on that database.

    Raises `ConfigurationError` in Alembic's offline mode (`--sql`): the vector conversion depends
    on what the database holds.
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
    """Keep other migrations out until this transaction ends. On SQLite its BEGIN has done so."""
    if connection.dialect.name != "postgresql":
        return
    connection.execute(
        text("SELECT set_config('lock_timeout', :wait, true)"), {"wait": f"{int(seconds * 1000)}ms"}
    )
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
    # From here on, rather fail than queue behind a long reader and block everybody after us.
    connection.exec_driver_sql("SET LOCAL lock_timeout = '5s'")


def _ours(
    _item: SchemaItem, name: str | None, kind: str, _reflected: object, _other: object
) -> bool:
    """Whether a comparison of models and database looks at it; `tables` explains the exception."""
    return not (kind == "index" and name == "ix_user_accounts_username_lower")
