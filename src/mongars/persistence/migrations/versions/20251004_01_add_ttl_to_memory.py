"""Short-term memory with an expiry per entry."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20251004_01"
down_revision = "20250308_01"
branch_labels = None
depends_on = None

_DAY_LATER = {
    "postgresql": "timestamp + interval '24 hours'",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', timestamp, '+24 hours')",
}


def upgrade() -> None:
    """Create `memory_entries`; a table without `ttl` gets it, a day after each entry."""
    connection = op.get_bind()
    if sa.inspect(connection).has_table("memory_entries"):
        _add_missing_ttl(connection)
    else:
        _create()
    op.create_index("ix_memory_entries_user_id", "memory_entries", ["user_id"], if_not_exists=True)
    op.create_index(
        "ix_memory_entries_user_ttl", "memory_entries", ["user_id", "ttl"], if_not_exists=True
    )


def downgrade() -> None:
    """Drop the short-term memory."""
    op.drop_table("memory_entries")


def _create() -> None:
    op.create_table(
        "memory_entries",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("query", sa.String(), nullable=False),
        sa.Column("response", sa.String(), nullable=False),
        sa.Column(
            "timestamp",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.func.now(),
        ),
        sa.Column("ttl", sa.DateTime(timezone=True), nullable=False),
    )


def _add_missing_ttl(connection: sa.Connection) -> None:
    columns = {column["name"] for column in sa.inspect(connection).get_columns("memory_entries")}
    if "ttl" in columns:
        return
    op.add_column("memory_entries", sa.Column("ttl", sa.DateTime(timezone=True)))
    later = _DAY_LATER[connection.dialect.name]
    op.execute(f"UPDATE memory_entries SET ttl = {later}")  # noqa: S608 - our own words
    with op.batch_alter_table("memory_entries") as batch:
        batch.alter_column("ttl", existing_type=sa.DateTime(timezone=True), nullable=False)
