"""Settings of the database. This module imports no database library, so that settings load quickly."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseConfig:
    """The URL of the database, its connection pool, and how long to wait for it.

    `url` may contain a password and is left out of the `repr`. A process has up to `pool_size` lasting connections and
    `max_overflow` more under load; `pool_timeout` is the seconds to wait for a free one. `startup_timeout` is for how
    many seconds, `startup_retry_interval` every how many seconds, to try to connect at the start.
    """

    url: str = field(repr=False)
    pool_size: int = 5
    max_overflow: int = 10
    pool_timeout: float = 30.0
    prepared_statements: bool = False
    """Whether to use prepared statements on PostgreSQL; they can fail behind a pooler in transaction mode."""
    startup_timeout: float = 120.0
    startup_retry_interval: float = 3.0
