"""Alembic runs this file; run_env() does the rest."""

from fastdb.migrations import run_env
from notes_api.settings import DATABASE_URL
from notes_api.tables import metadata

run_env(DATABASE_URL, target_metadata=metadata)
