"""Notebooks know how many notes they have.

Revision ID: d6a28f41c7b0
Revises: c05d7e9b2f13
Create Date: 2026-02-03 16:20:08
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "d6a28f41c7b0"
down_revision: str | Sequence[str] | None = "c05d7e9b2f13"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    """Upgrade the schema, and count what is there."""
    with op.batch_alter_table("notebooks") as batch:
        batch.add_column(sa.Column("size", sa.Integer(), server_default="0", nullable=False))
    op.execute(
        "UPDATE notebooks SET size = "
        "(SELECT count(*) FROM notes WHERE notes.notebook_id = notebooks.id)"
    )


def downgrade() -> None:
    """Downgrade the schema."""
    with op.batch_alter_table("notebooks") as batch:
        batch.drop_column("size")
