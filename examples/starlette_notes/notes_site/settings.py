"""What differs from one installation to another, and the database.

Other modules use it as ``settings.database``, so that a test can put another in its place.
"""

from starlette.config import Config

from fastdb import Database, DatabaseURL

config = Config()

DATABASE_URL: DatabaseURL = config(
    "DATABASE_URL", cast=DatabaseURL, default=DatabaseURL("sqlite:///notes.db")
)
database = Database(DATABASE_URL)
