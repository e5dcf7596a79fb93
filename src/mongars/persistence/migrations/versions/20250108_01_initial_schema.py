"""Core tables; embeddings in a column for float vectors where the database has one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import UserDefinedType

from mongars.persistence.vectors import pgvector_installed

revision = "20250108_01"
down_revision = None
branch_labels = None
depends_on = None

_TABLES = (
    "interactions",
    "emotion_trends",
    "user_personality",
    "user_preferences",
    "conversation_sessions",
    "conversation_history",
)


class PgVector(UserDefinedType[str]):
    """`vector(3072)` of pgvector, without its Python package."""

    cache_ok = True

    def get_col_spec(self, **_options: object) -> str:
        """The type as DDL."""
        return "vector(3072)"


def upgrade() -> None:
    """Create what is missing: a database made without migrations is taken over."""
    _conversations()
    _preferences()
    _interactions()


def downgrade() -> None:
    """Drop everything."""
    op.execute("DROP TABLE IF EXISTS conversation_history_vector_payloads")
    for table in _TABLES:
        op.drop_table(table)


def _conversations() -> None:
    op.create_table(
        "conversation_history",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("user_id", sa.String()),
        sa.Column("query", sa.String()),
        sa.Column("response", sa.String()),
        _time("timestamp", nullable=False),
        sa.Column("vector", _vector_type()),
        if_not_exists=True,
    )
    op.create_index(
        "idx_user_timestamp", "conversation_history", ["user_id", "timestamp"], if_not_exists=True
    )
    op.create_table(
        "conversation_sessions",
        sa.Column("user_id", sa.String(), primary_key=True),
        sa.Column("session_data", sa.JSON()),
        _time("last_active"),
        if_not_exists=True,
    )
    op.create_table(
        "emotion_trends",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("user_id", sa.String()),
        sa.Column("emotion", sa.String()),
        _time("timestamp"),
        if_not_exists=True,
    )


def _preferences() -> None:
    op.create_table(
        "user_preferences",
        sa.Column("user_id", sa.String(), primary_key=True),
        sa.Column("interaction_style", sa.JSON()),
        sa.Column("preferred_topics", sa.JSON()),
        if_not_exists=True,
    )
    op.create_table(
        "user_personality",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("traits", sa.JSON()),
        sa.Column("interaction_style", sa.JSON()),
        sa.Column("context_preferences", sa.JSON()),
        sa.Column("adaptation_rate", sa.Float(), server_default=sa.text("0.1")),
        sa.Column("confidence", sa.Float(), server_default=sa.text("0.5")),
        _time("last_updated"),
        if_not_exists=True,
    )
    op.create_index(
        "ix_user_personality_user_id",
        "user_personality",
        ["user_id"],
        unique=True,
        if_not_exists=True,
    )


def _interactions() -> None:
    op.create_table(
        "interactions",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("session_id", sa.String()),
        sa.Column("input_data", sa.JSON()),
        sa.Column("output_data", sa.JSON()),
        sa.Column("message", sa.String()),
        sa.Column("response", sa.String()),
        sa.Column("personality", sa.JSON()),
        sa.Column("context", sa.JSON()),
        sa.Column("meta_data", sa.String()),
        sa.Column("confidence", sa.Float()),
        sa.Column("processing_time", sa.Float()),
        _time("created_at"),
        _time("updated_at"),
        if_not_exists=True,
    )
    op.create_index(
        "idx_user_session_created",
        "interactions",
        ["user_id", "session_id", "created_at"],
        if_not_exists=True,
    )


def _time(name: str, *, nullable: bool = True) -> sa.Column[object]:
    return sa.Column(
        name, sa.DateTime(timezone=True), nullable=nullable, server_default=sa.func.now()
    )


def _vector_type() -> PgVector | sa.JSON | sa.ARRAY[float]:
    """An extension that is not installed is not created for a column that will soon be JSON."""
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return sa.JSON()
    return PgVector() if pgvector_installed(connection) else sa.ARRAY(sa.REAL())
