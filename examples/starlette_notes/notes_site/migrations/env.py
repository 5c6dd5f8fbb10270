"""Alembic runs this file; run_env() does the rest."""

from fastdb.migrations import run_env
from notes_site.settings import DATABASE_URL
from notes_site.tables import metadata

run_env(DATABASE_URL, target_metadata=metadata)
