"""NOT NULL and defaults for columns that always hold an object or a text."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20250304_01"
down_revision = "20250130_01"
branch_labels = None
depends_on = None

_OBJECTS = {
    "interactions": ("input_data", "output_data", "personality", "context"),
    "user_preferences": ("interaction_style", "preferred_topics"),
    "user_personality": ("traits", "interaction_style", "context_preferences"),
}
_TEXTS = {"interactions": ("message", "response")}


def upgrade() -> None:
    """Fill what is NULL with `{}` or an empty text, then forbid NULL."""
    for table, objects in _OBJECTS.items():
        texts = _TEXTS.get(table, ())
        for column, empty in [(name, "{}") for name in objects] + [(name, "") for name in texts]:
            op.execute(f"UPDATE {table} SET {column} = '{empty}' WHERE {column} IS NULL")  # noqa: S608 - our own names
        with op.batch_alter_table(table) as batch:
            for column in objects:
                batch.alter_column(
                    column,
                    existing_type=sa.JSON(),
                    nullable=False,
                    server_default=sa.text("'{}'"),
                )
            for column in texts:
                batch.alter_column(
                    column,
                    existing_type=sa.String(),
                    nullable=False,
                    server_default=sa.text("''"),
                )


def downgrade() -> None:
    """Allow NULL again; the values stay."""
    for table, objects in _OBJECTS.items():
        with op.batch_alter_table(table) as batch:
            for column in objects:
                batch.alter_column(
                    column, existing_type=sa.JSON(), nullable=True, server_default=None
                )
            for column in _TEXTS.get(table, ()):
                batch.alter_column(
                    column, existing_type=sa.String(), nullable=True, server_default=None
                )
