"""Parsing `DATABASE_URL`, in its common spellings, into a SQLAlchemy URL with the driver that monGARS uses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from mongars.core.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import URL

POSTGRESQL = "postgresql+psycopg"
"""SQLAlchemy's name of the driver for PostgreSQL, psycopg 3, for both application and migrations."""

_SQLITE_APP = "sqlite+aiosqlite"
_SQLITE_SYNC = "sqlite+pysqlite"
_SECRET_PARAMETERS = ("password", "sslpassword")


def app_url(raw: str) -> URL:
    """The SQLAlchemy URL of `raw` (the value of `DATABASE_URL`) for the application's asynchronous engines.

    Raises `ConfigurationError`, without the password, if it is malformed, names another system than PostgreSQL
    or SQLite, or a SQLite database in memory.
    """
    url = _parse(raw)
    dialect = url.drivername.partition("+")[0]
    if dialect in {"postgres", "postgresql"}:
        return url.set(drivername=POSTGRESQL)
    if dialect == "sqlite":
        return _file(url).set(drivername=_SQLITE_APP)
    msg = (
        f"DATABASE_URL names the database system {dialect!r}."
        " Use postgresql://user:password@host/name or sqlite:///path/to/file.db."
    )
    raise ConfigurationError(msg)


def migration_url(raw: str) -> URL:
    """The SQLAlchemy URL of `raw` (the value of `DATABASE_URL`) for synchronous engines, such as those for migrations.

    Raises `ConfigurationError`, without the password, if it is malformed, names another system than PostgreSQL or
    SQLite, or a SQLite database in memory.
    """
    url = app_url(raw)
    return url.set(drivername=_SQLITE_SYNC) if is_sqlite(url) else url


def is_sqlite(url: URL) -> bool:
    """Whether `url`, the result of `app_url` or `migration_url`, names a SQLite file; False: a PostgreSQL database."""
    return url.drivername.startswith("sqlite")


def sqlite_path(url: URL) -> Path | None:
    """The path of the database file in a SQLite URL; None for PostgreSQL."""
    return Path(url.database or "") if is_sqlite(url) else None


def masked(raw: str) -> str:
    """The SQLAlchemy URL of `raw` (the value of `DATABASE_URL`) as text with each password as `***`, for logs.

    Raises `ConfigurationError` if it is malformed, names another system than PostgreSQL or SQLite, or a SQLite database
    in memory.
    """
    url = app_url(raw)
    hidden = {name: "***" for name in _SECRET_PARAMETERS if name in url.query}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


def _parse(raw: str) -> URL:
    try:
        # ValueError: a port that is no number.
        return make_url(raw.strip())
    except (ArgumentError, ValueError):
        msg = (
            "DATABASE_URL is not a database URL."
            " Use postgresql://user:password@host/name or sqlite:///path/to/file.db;"
            " percent-encode special characters in the password."
        )
        # The cause quotes the URL with its password, so it stays out of the chain.
        raise ConfigurationError(msg) from None


def _file(url: URL) -> URL:
    if url.database in {None, "", ":memory:"}:
        msg = (
            "DATABASE_URL names a SQLite database in memory, which every connection would see"
            " empty. Name a file: sqlite:///path/to/file.db."
        )
        raise ConfigurationError(msg)
    if "uri" in url.query:
        msg = (
            "DATABASE_URL uses a SQLite file: URI. Name the file itself: sqlite:///path/to/file.db."
        )
        raise ConfigurationError(msg)
    return url
