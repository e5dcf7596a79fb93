"""Where the database is and how patiently it is used. Imports nothing heavy: settings read this."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseConfig:
    """Settings of the database.

    `url` may carry a password and therefore never appears in the `repr`. The pool figures count
    connections and seconds per process; the `startup` ones are seconds and govern waiting for a
    database that is still starting.
    """

    url: str = field(repr=False)
    pool_size: int = 5
    max_overflow: int = 10
    pool_timeout: float = 30.0
    prepared_statements: bool = False
    """Whether PostgreSQL keeps statements per connection; a pooler in transaction mode must not."""
    startup_timeout: float = 120.0
    startup_retry_interval: float = 3.0
