"""Checking the parameters of a PostgreSQL URL against those that libpq, PostgreSQL's client library, supports."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from mongars.core.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import URL

_CURES = {
    "ssl": "Write sslmode (for example sslmode=disable or sslmode=require).",
    "tls": "Write sslmode (for example sslmode=disable or sslmode=require).",
    "pgbouncer": "Leave it out: poolers in transaction mode are supported as they are.",
    "prepared_statements": "Leave it out; DB_PREPARED_STATEMENTS switches them.",
    "statement_cache_size": "Leave it out; DB_PREPARED_STATEMENTS switches prepared statements.",
    "schema": "Write options=-csearch_path%3DNAME for another schema than public.",
    "search_path": "Write options=-csearch_path%3DNAME.",
    "connection_limit": "Leave it out; DB_POOL_SIZE and DB_MAX_OVERFLOW bound the connections.",
    "pool_timeout": "Leave it out; DB_POOL_TIMEOUT sets it.",
}
"""Advice for parameters of other drivers, by name: what to write instead."""


def check_parameters(url: URL) -> None:
    """Check the query parameters of a PostgreSQL URL against those that PostgreSQL's client library has.

    Raises `ConfigurationError`, naming the parameter, for one that is unknown or given twice; only `host` and `port`
    may be repeated.
    """
    from psycopg.pq import Conninfo  # noqa: PLC0415 (in the extra `postgres`)

    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    for name, value in url.query.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            guess = f"Did you mean {near[0]}?" if near else "Leave it out."
            msg = f"DATABASE_URL has the parameter {name!r}, which PostgreSQL does not have."
            msg_0 = f"{msg} {_CURES.get(name, guess)}"
            raise ConfigurationError(msg_0)
        if not isinstance(value, str) and name not in {"host", "port"}:
            msg = f"DATABASE_URL has the parameter {name!r} {len(value)} times."
            raise ConfigurationError(msg)
