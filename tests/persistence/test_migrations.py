"""Upgrades and downgrades of the database, their failures, and waiting for the database."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError

from mongars.core.errors import ConfigurationError, StorageUnavailable
from mongars.persistence.config import DatabaseConfig
from mongars.persistence.migrate import (
    alembic_config,
    current,
    downgrade,
    head,
    upgrade,
    wait_for_database,
)
from mongars.persistence.sql_engines import migration_engine
from mongars.testing.manual_clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Postgres

CHAIN = [
    "20250108_01",
    "20250108_02",
    "20250108_03",
    "20250130_01",
    "20250304_01",
    "20250308_01",
    "20251004_01",
    "20261123_01",
]


def tables(config: DatabaseConfig) -> set[str]:
    """The names of the database's tables."""
    engine = migration_engine(config)
    with engine.connect() as connection:
        return set(inspect(connection).get_table_names())


def execute(config: DatabaseConfig, *statements: str) -> None:
    """Execute statements in one transaction."""
    with migration_engine(config).begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def rows(config: DatabaseConfig, query: str) -> list[tuple[object, ...]]:
    """All rows that a query returns."""
    with migration_engine(config).begin() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def test_the_published_chain_is_complete(tmp_path: Path) -> None:
    """Every revision of the earlier program exists, in its order and with its published file name."""
    script = ScriptDirectory.from_config(
        alembic_config(DatabaseConfig(url=f"sqlite:///{tmp_path}/m.db"))
    )
    revisions = list(script.walk_revisions("base", "heads"))[::-1]
    assert [revision.revision for revision in revisions] == CHAIN
    assert revisions[2].path.endswith("20250108_03_extend_sqlmodel_indexes.py")
    assert revisions[3].path.endswith("20250130_01_convert_vectors_to_json.py")
    assert head() == CHAIN[-1]


def test_an_empty_database_reaches_the_head(config: DatabaseConfig) -> None:
    """One call upgrades an empty database to the newest revision; a second call changes nothing."""
    assert current(config) is None
    upgrade(config)
    assert current(config) == CHAIN[-1]
    assert {"conversation_history", "user_accounts", "api_keys"} <= tables(config)
    upgrade(config)
    assert current(config) == CHAIN[-1]


def test_the_models_describe_what_the_migrations_made(config: DatabaseConfig) -> None:
    """Alembic finds no difference between the tables in the code and those in the database."""
    upgrade(config)
    command.check(alembic_config(config))


def test_every_single_step_goes_down_and_up(config: DatabaseConfig) -> None:
    """Each revision can be downgraded and upgraded on its own; a downgrade to base drops all tables."""
    for revision in CHAIN:
        upgrade(config, revision)
        downgrade(config, "-1")
        upgrade(config, revision)
        assert current(config) == revision
    downgrade(config, "base")
    assert tables(config) == {"alembic_version"}


def test_no_extension_is_created_on_the_way_up(
    make_config: Callable[[str], DatabaseConfig],
) -> None:
    """An upgrade does not create the extension pgvector on a PostgreSQL server where it is available."""
    config = make_config("pgvector")
    upgrade(config)
    assert rows(config, "SELECT 1 FROM pg_extension WHERE extname = 'vector'") == []


def test_rolling_back_keeps_turns_and_accounts(config: DatabaseConfig) -> None:
    """The documented rollback keeps turns, accounts and trends, and drops API keys and session ids."""
    upgrade(config)
    execute(
        config,
        "INSERT INTO user_accounts (username, password_hash) VALUES ('ada', 'x')",
        "INSERT INTO conversation_history (user_id, query, response, session_id)"
        " VALUES ('ada', 'q', 'r', 's')",
        "INSERT INTO emotion_trends (user_id, emotion) VALUES ('ada', 'calm')",
        "INSERT INTO interactions (user_id) VALUES ('ada')",
    )
    downgrade(config, "20250108_03")
    assert current(config) == "20250108_03"
    assert "api_keys" not in tables(config)
    upgrade(config)
    assert rows(
        config, "SELECT user_id, query, response, session_id FROM conversation_history"
    ) == [("ada", "q", "r", None)]
    assert rows(config, "SELECT username FROM user_accounts") == [("ada",)]
    assert rows(config, "SELECT emotion FROM emotion_trends") == [("calm",)]
    assert rows(config, "SELECT message FROM interactions") == [("",)]


def test_missing_values_become_the_defaults(config: DatabaseConfig) -> None:
    """NULL in old rows, where an object or a text is required, is replaced by the default."""
    upgrade(config, "20250130_01")
    execute(
        config,
        "INSERT INTO interactions (user_id, message) VALUES ('ada', NULL)",
        "INSERT INTO user_preferences (user_id) VALUES ('ada')",
    )
    upgrade(config)
    assert rows(config, "SELECT message, response FROM interactions") == [("", "")]
    stored = "SELECT CAST(preferred_topics AS VARCHAR(9)) FROM user_preferences"
    assert rows(config, stored) == [("{}",)]


def test_a_failing_migration_leaves_the_previous_revision(config: DatabaseConfig) -> None:
    """A revision that fails leaves the database at the previous one; once the cause is removed, it succeeds."""
    upgrade(config, "20251004_01")
    execute(config, "CREATE TABLE api_keys (id INTEGER)")  # the head adds columns, then this table
    with pytest.raises(ConfigurationError, match=r"left the database as it was.*api_keys"):
        upgrade(config)
    assert current(config) == "20251004_01"
    engine = migration_engine(config)
    with engine.connect() as connection:
        columns = {c["name"] for c in inspect(connection).get_columns("conversation_history")}
    assert "session_id" not in columns
    execute(config, "DROP TABLE api_keys")
    upgrade(config)
    assert current(config) == CHAIN[-1]


BROKEN = """
from alembic import op

revision, down_revision = "99990101_01", "20261123_01"
branch_labels = depends_on = None


def upgrade():
    op.execute("CREATE TABLE half_done (id INTEGER)")
    op.execute("SELECT no_such_thing FROM nowhere")
"""


def test_a_failure_in_a_later_revision_undoes_the_earlier_ones_too(
    config: DatabaseConfig, tmp_path: Path
) -> None:
    """If one of several revisions fails, the upgrade undoes the earlier ones as well."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "99990101_01_broken.py").write_text(BROKEN)
    upgrade(config, "20250108_03")
    broken = alembic_config(config)
    versions = f"{broken.get_main_option('script_location')}/versions"
    broken.set_main_option("version_locations", f"{versions}\n{folder}")
    broken.set_main_option("path_separator", "newline")
    with pytest.raises(DBAPIError, match="nowhere"):
        command.upgrade(broken, "head")
    assert current(config) == "20250108_03"
    assert not {"half_done", "api_keys", "memory_entries"} & tables(config)


MIGRATE_ON_SIGNAL = """
import sys
from mongars.persistence.config import DatabaseConfig
from mongars.persistence.migrate import upgrade
print("ready", flush=True)
sys.stdin.readline()
upgrade(DatabaseConfig(url=sys.argv[1]))
"""


@pytest.mark.slow
def test_migrating_at_the_same_time_is_safe(config: DatabaseConfig) -> None:
    """Four processes that migrate one empty database at the same time all succeed."""
    processes = [
        subprocess.Popen(  # noqa: S603 - our own interpreter and code
            [sys.executable, "-W", "error", "-c", MIGRATE_ON_SIGNAL, config.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    ended = [(process.communicate()[1], process.returncode) for process in processes]
    assert ended == [("", 0)] * 4
    assert current(config) == CHAIN[-1]


def test_waiting_ends_when_the_database_answers(config: DatabaseConfig) -> None:
    """A database that answers at once is not waited for."""
    waits: list[float] = []
    wait_for_database(config, wait=waits.append)
    assert waits == []


def test_waiting_tries_again_and_gives_up_in_time() -> None:
    """An unreachable database is tried again every interval; after the timeout the error has the cause, no password."""
    waits: list[float] = []
    config = DatabaseConfig(
        url="postgresql://nobody:s3cret@127.0.0.1:1/none",
        startup_timeout=0.2,
        startup_retry_interval=0.05,
    )
    with pytest.raises(StorageUnavailable, match=r"No database within 0.2 s.*refused") as caught:
        wait_for_database(config, wait=waits.append)
    assert set(waits) == {0.05}
    assert "s3cret" not in str(caught.value)


def test_waiting_is_reported_at_once_and_every_ten_seconds() -> None:
    """While the start waits for the database, a line with the cause is reported at once and then every ten seconds."""
    lines: list[str] = []
    clock = ManualClock()
    config = DatabaseConfig(
        url="postgresql://nobody:s3cret@127.0.0.1:1/none",
        startup_timeout=35,
        startup_retry_interval=3.0,
    )
    with pytest.raises(StorageUnavailable, match="No database within 35 s"):
        wait_for_database(config, wait=clock.skip, report=lines.append, clock=clock)
    assert len(lines) == 3
    assert all("refused" in line and "s3cret" not in line for line in lines)
    assert "35 s left" in lines[0]


@pytest.mark.parametrize("who", ["postgres", "stranger"])
def test_what_waiting_cannot_mend_fails_at_once(who: str, postgres: Postgres) -> None:
    """A database or a user that does not exist is reported at once with the server's message, without waiting."""
    waits: list[float] = []
    url = f"postgresql://{who}@/missing?host={postgres.socket_folder}"
    with pytest.raises(StorageUnavailable, match="does not exist"):
        wait_for_database(DatabaseConfig(url=url), wait=waits.append)
    assert waits == []


def test_a_database_newer_than_the_program_is_refused(config: DatabaseConfig) -> None:
    """A database with an unknown revision is refused, and the error names the revision."""
    upgrade(config)
    execute(config, "UPDATE alembic_version SET version_num = '20991231_01'")
    with pytest.raises(ConfigurationError, match="20991231_01"):
        upgrade(config)


def test_a_database_made_without_migrations_is_taken_over(config: DatabaseConfig) -> None:
    """Tables of a database without a revision are kept and completed, and then get the newest revision."""
    upgrade(config, "20250130_01")
    execute(
        config,
        "DROP TABLE alembic_version",
        "DROP TABLE emotion_trends",
        "DROP INDEX ix_interactions_user_id",
        "INSERT INTO conversation_history (user_id, query) VALUES ('ada', 'hello')",
        "CREATE TABLE memory_entries (id INTEGER PRIMARY KEY, user_id VARCHAR NOT NULL,"
        " query VARCHAR NOT NULL, response VARCHAR NOT NULL,"
        " timestamp TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL)",
        "INSERT INTO memory_entries VALUES (1, 'ada', 'q', 'r', '2026-01-01 00:00:00')",
    )
    upgrade(config)
    assert current(config) == CHAIN[-1]
    assert rows(config, "SELECT user_id, query FROM conversation_history") == [("ada", "hello")]
    assert "emotion_trends" in tables(config)
    ((ttl,),) = rows(config, "SELECT ttl FROM memory_entries")
    assert str(ttl).startswith("2026-01-02 00:00:00")


def test_the_sqlite_file_belongs_to_its_owner_and_stays_in_wal_mode(tmp_path: Path) -> None:
    """A new SQLite file and its folder are made; only the owner can read the file, and it is in WAL mode."""
    path = tmp_path / "new" / "folder" / "mongars.db"
    upgrade(DatabaseConfig(url=f"sqlite:///{path}"))
    assert path.stat().st_mode & 0o077 == 0
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_folder_that_cannot_be_made_is_a_storage_failure(tmp_path: Path) -> None:
    """A database file whose folder cannot be created is reported as `StorageUnavailable`."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageUnavailable, match="cannot be created"):
        upgrade(DatabaseConfig(url=f"sqlite:///{tmp_path}/file/mongars.db"))
