"""Column types that mean the same on SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import JSON, DateTime
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator

if TYPE_CHECKING:
    from sqlalchemy import Dialect

VectorJson = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
"""An embedding as a JSON array. On both variants None is SQL NULL, never JSON `null`."""


class UtcDateTime(TypeDecorator[datetime]):
    """Timezone-aware UTC on both sides. SQLite stores naive times, so UTC is what it is given."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """UTC for the driver. Raises `ValueError` for a naive time, which could mean anything."""
        del dialect
        if value is None:
            return None
        if value.tzinfo is None:
            msg = f"{value!r} has no time zone."
            raise ValueError(msg)
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Aware UTC for us."""
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
