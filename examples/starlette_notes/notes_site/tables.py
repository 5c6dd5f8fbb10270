"""The tables."""

import sqlalchemy as sa

# Constraints have names, so that migrations can drop them on every database.
metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

notebooks = sa.Table(
    "notebooks",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(40), nullable=False, unique=True),
    sa.Column("size", sa.Integer, nullable=False, default=0, server_default="0"),
)

notes = sa.Table(
    "notes",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("notebook_id", sa.ForeignKey("notebooks.id"), nullable=False),
    sa.Column("text", sa.String(200), nullable=False),
)
