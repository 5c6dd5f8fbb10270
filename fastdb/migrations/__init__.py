"""Alembic's migrations over fastdb's own connections, with no second driver.

An ``env.py`` calls :func:`run_env`; an application calls the other functions; from a shell there
is ``alembic``, or ``python -m fastdb.migrations``.
"""

from fastdb.exceptions import DriverNotInstalledError

try:
    import alembic  # noqa: F401
    import greenlet  # noqa: F401
except ImportError as error:
    raise DriverNotInstalledError(
        "migrations need the packages alembic and greenlet; "
        "install them with `pip install fastdb-sql[migrations]`"
    ) from error

from fastdb.migrations.commands import (
    check,
    current,
    downgrade,
    heads,
    history,
    is_current,
    revision,
    sql,
    stamp,
    upgrade,
)
from fastdb.migrations.environment import run_env
from fastdb.migrations.errors import FailedMigrationError, MigrationError, SchemaDiffersError

__all__ = [
    "FailedMigrationError",
    "MigrationError",
    "SchemaDiffersError",
    "check",
    "current",
    "downgrade",
    "heads",
    "history",
    "is_current",
    "revision",
    "run_env",
    "sql",
    "stamp",
    "upgrade",
]
