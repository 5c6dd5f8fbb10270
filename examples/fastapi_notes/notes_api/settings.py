"""What differs from one installation to another."""

import os

DATABASE_URL = os.environ.get("DATABASE_URL", "sqlite:///notes.db")
