"""Notes can be done, and have tags.

Revision ID: b83e5f6a1d40
Revises: a4d1c07be925
Create Date: 2026-02-03 16:20:08
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "b83e5f6a1d40"
down_revision: str | Sequence[str] | None = "a4d1c07be925"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    """Upgrade the schema."""
    op.create_table(
        "tags",
        sa.Column("note_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(
            ["note_id"], ["notes.id"], name=op.f("fk_tags_note_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("note_id", "name", name=op.f("pk_tags")),
    )
    with op.batch_alter_table("tags") as batch:
        batch.create_index(batch.f("ix_tags_name"), ["name"])
    with op.batch_alter_table("notes") as batch:
        batch.add_column(sa.Column("done", sa.Boolean(), server_default="0", nullable=False))


def downgrade() -> None:
    """Downgrade the schema."""
    with op.batch_alter_table("notes") as batch:
        batch.drop_column("done")
    op.drop_table("tags")
