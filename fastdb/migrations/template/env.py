"""Alembic runs this file; run_env() does the rest."""

import os

from fastdb.migrations import run_env

# Fill in these two, such as
#     from app.settings import DATABASE_URL
#     from app.models import metadata
DATABASE_URL = os.environ.get("DATABASE_URL", "")
metadata = None

run_env(DATABASE_URL, target_metadata=metadata)
