"""Accounts of people who log in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20250108_02"
down_revision = "20250108_01"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create `user_accounts`; on PostgreSQL names that differ only in case are one name."""
    op.create_table(
        "user_accounts",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("username", sa.String(150), nullable=False),
        sa.Column("password_hash", sa.String(255), nullable=False),
        sa.Column("is_admin", sa.Boolean(), nullable=False, server_default=sa.false()),
        _time("created_at"),
        _time("updated_at"),
        if_not_exists=True,
    )
    op.create_index(
        "ix_user_accounts_username",
        "user_accounts",
        ["username"],
        unique=True,
        if_not_exists=True,
    )
    if op.get_bind().dialect.name == "postgresql":
        op.create_index(
            "ix_user_accounts_username_lower",
            "user_accounts",
            [sa.text("lower(username)")],
            unique=True,
            if_not_exists=True,
        )


def downgrade() -> None:
    """Drop all accounts."""
    op.drop_table("user_accounts")


def _time(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now())
