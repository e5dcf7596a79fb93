"""Indexes for the common questions. The documented target of a rollback."""

from __future__ import annotations

from alembic import op

revision = "20250108_03"
down_revision = "20250108_02"
branch_labels = None
depends_on = None

_INDEXES = (
    ("conversation_history", "user_id"),
    ("conversation_history", "timestamp"),
    ("interactions", "user_id"),
    ("interactions", "session_id"),
    ("interactions", "created_at"),
)


def upgrade() -> None:
    """Create the indexes that are missing."""
    for table, column in _INDEXES:
        op.create_index(f"ix_{table}_{column}", table, [column], if_not_exists=True)


def downgrade() -> None:
    """Drop them."""
    for table, column in _INDEXES:
        op.drop_index(f"ix_{table}_{column}", table_name=table)
