"""Make the notes.

Revision ID: a4d1c07be925
Revises:
Create Date: 2026-01-12 10:04:51
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "a4d1c07be925"
down_revision: str | Sequence[str] | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    """Upgrade the schema."""
    op.create_table(
        "notes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("text", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notes")),
    )


def downgrade() -> None:
    """Downgrade the schema."""
    op.drop_table("notes")
