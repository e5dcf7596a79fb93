"""Reading the revision of a database without changing the database."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from mongars.persistence.config import DatabaseConfig
from mongars.persistence.migrate import current, upgrade
from mongars.persistence.sql_engines import read_only_engine

if TYPE_CHECKING:
    from pathlib import Path


def test_asking_for_the_revision_changes_nothing(tmp_path: Path) -> None:
    """Reading the revision creates no file, leaves the journal mode as it is, and needs no lock."""
    path = tmp_path / "mongars.db"
    config = DatabaseConfig(url=f"sqlite:///{path}", startup_timeout=0.2)
    assert current(config) is None
    assert list(tmp_path.iterdir()) == []
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        writer.execute("INSERT INTO alembic_version VALUES ('20250108_03')")
        before = path.read_bytes()
        writer.execute("BEGIN IMMEDIATE")
        assert current(config) == "20250108_03"
        writer.execute("ROLLBACK")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_looking_cannot_write(config: DatabaseConfig) -> None:
    """The engine that reads the revision refuses to write."""
    upgrade(config)
    with (
        pytest.raises(DBAPIError),
        read_only_engine(config).begin() as connection,
    ):
        connection.execute(text("DELETE FROM alembic_version"))
