"""Embeddings as JSON, so that no database needs an extension to hold them."""

from __future__ import annotations

from alembic import op

from mongars.persistence.vectors import to_floats, to_json

revision = "20250130_01"
down_revision = "20250108_03"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Convert every embedding, bit for bit; NULL stays NULL."""
    to_json(op.get_bind())


def downgrade() -> None:
    """Convert back: to pgvector where it can be had, else to `real[]`."""
    to_floats(op.get_bind())
