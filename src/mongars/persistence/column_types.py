"""Column types that behave the same on SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import JSON, DateTime
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator

if TYPE_CHECKING:
    from sqlalchemy import Dialect

VectorJson = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
"""A column type for an embedding as a JSON array (JSONB on PostgreSQL). None is SQL NULL, never JSON `null`."""


class UtcDateTime(TypeDecorator[datetime]):
    """A SQLAlchemy column type for timezone-aware datetimes, stored in UTC and returned in UTC, also on SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert a datetime to UTC for storing; None stays None. Raises `ValueError` if it has no time zone."""
        del dialect
        if value is None:
            return None
        if value.tzinfo is None:
            msg = f"{value!r} has no time zone."
            raise ValueError(msg)
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert a datetime read from the database to one with the time zone UTC; None stays None.

        One without a time zone, as SQLite returns it, is UTC already.
        """
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
