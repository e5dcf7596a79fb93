"""`init_db.py` and the `alembic` commands, run as in the guide."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import inspect

from mongars.persistence.config import DatabaseConfig
from mongars.persistence.migrate import current, downgrade, head, upgrade
from mongars.persistence.sql_engines import read_only_engine

ROOT = Path(__file__).parents[2]


def call(*arguments: str) -> tuple[int, str]:
    """Exit status and output of Python with these arguments in the repository's root, as in the guide."""
    ended = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, *arguments],
        cwd=ROOT,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return ended.returncode, ended.stdout


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DatabaseConfig:
    """The settings for a SQLite file that does not exist yet; `DATABASE_URL` has its URL."""
    url = f"sqlite:///{tmp_path}/new/mongars.db"
    monkeypatch.setenv("DATABASE_URL", url)
    return DatabaseConfig(url=url)


@pytest.mark.slow
def test_the_commands_of_the_guide_work(config: DatabaseConfig) -> None:
    """init_db.py, `alembic current` and `alembic downgrade 20250108_03` do what the guide says."""
    code, output = call("init_db.py")
    assert code == 0
    assert "Running alembic upgrade head using sqlite" in output
    assert "Alembic upgrade to head completed" in output
    assert current(config) == head()
    assert call("-m", "alembic", "current") == (0, f"{head()} (head)\n")
    assert call("-m", "alembic", "check")[0] == 0
    assert call("-m", "alembic", "downgrade", "20250108_03")[0] == 0
    assert current(config) == "20250108_03"
    assert call("init_db.py")[0] == 0
    assert current(config) == head()


def test_the_guide_names_all_that_a_downgrade_drops(config: DatabaseConfig) -> None:
    """The guide names every table and column that the documented downgrade drops."""

    def names() -> set[str]:
        looking = inspect(read_only_engine(config))
        tables = looking.get_table_names()
        columns = {column["name"] for table in tables for column in looking.get_columns(table)}
        return columns | set(tables)

    upgrade(config)
    before = names()
    downgrade(config, "20250108_03")
    page = (ROOT / "docs" / "guide" / "getting-started.md").read_text()
    lost = before - names()
    assert {"api_keys", "memory_entries", "session_id"} & lost
    kept_columns = {"secret_hash", "last_used_at", "revoked_at", "ttl", "name"}  # of dropped tables
    assert [name for name in lost - kept_columns if f"`{name}`" not in page] == []


@pytest.mark.slow
def test_a_failure_is_logged_and_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the database is unreachable, init_db.py logs the cause in one line, without the password, and exits with 1."""
    monkeypatch.setenv("DB_STARTUP_TIMEOUT", "0.1")
    monkeypatch.setenv("DATABASE_URL", "postgres://nobody:s3cret@127.0.0.1:1/none")
    code, output = call("init_db.py")
    assert code == 1
    assert "DB init failed: No database within 0.1 s" in output
    assert "refused" in output
    assert "s3cret" not in output
    assert "Traceback" not in output
