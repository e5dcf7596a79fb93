"""Embeddings stay JSON.

The earlier program went back to pgvector here, padding and cutting embeddings. Databases carry this
id, so it remains, but it makes sure of JSON.
"""

from __future__ import annotations

from alembic import op

from mongars.persistence.vectors import to_json

revision = "20250308_01"
down_revision = "20250304_01"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Convert an embedding column that is not JSON yet."""
    to_json(op.get_bind())


def downgrade() -> None:
    """Nothing: the revision below has JSON too."""
