"""API keys, kept as digests; conversations know their session and may expire."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from mongars.persistence.vectors import to_json

revision = "20261123_01"
down_revision = "20251004_01"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Also convert embeddings of databases the earlier program left on pgvector at its head."""
    to_json(op.get_bind())
    op.add_column("conversation_history", sa.Column("session_id", sa.String(200)))
    op.add_column("conversation_history", sa.Column("expires_at", sa.DateTime(timezone=True)))
    op.create_index(
        "ix_conversation_history_user_session",
        "conversation_history",
        ["user_id", "session_id", "id"],
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column(
            "username",
            sa.String(150),
            sa.ForeignKey("user_accounts.username", ondelete="CASCADE", onupdate="CASCADE"),
            nullable=False,
        ),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("secret_hash", sa.String(64), nullable=False),
        sa.Column("is_admin", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.func.now(),
        ),
        sa.Column("last_used_at", sa.DateTime(timezone=True)),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
    )
    op.create_index("ix_api_keys_username", "api_keys", ["username"])
    op.create_index("ix_api_keys_secret_hash", "api_keys", ["secret_hash"], unique=True)


def downgrade() -> None:
    """Drop the keys and which session a turn belonged to; the turns themselves stay."""
    op.drop_table("api_keys")
    op.drop_index("ix_conversation_history_user_session", table_name="conversation_history")
    op.drop_column("conversation_history", "expires_at")
    op.drop_column("conversation_history", "session_id")
