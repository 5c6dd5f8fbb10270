"""SQLAlchemy's asynchronous dialects, which leave transactions to fastdb.

Each is SQLAlchemy's own of the driver's package; what differs is who begins and ends transactions,
and that the connection is neither set up nor closed: it is lent by fastdb's pool, which has done
the one and will do the other.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy.dialects import registry

if TYPE_CHECKING:
    from fastdb.drivers.base import Driver
    from fastdb.synchronous import Bridge

__all__ = ["register"]

#: Where SQLAlchemy has the dialect of a package, and its name there.
_DIALECTS = {
    ("postgresql", "asyncpg"): ("postgresql.asyncpg", "PGDialect_asyncpg"),
    ("mysql", "aiomysql"): ("mysql.aiomysql", "MySQLDialect_aiomysql"),
    ("mysql", "asyncmy"): ("mysql.asyncmy", "MySQLDialect_asyncmy"),
    ("sqlite", "aiosqlite"): ("sqlite.aiosqlite", "SQLiteDialect_aiosqlite"),
}


class BridgedDialect:
    """Mixed into a dialect of SQLAlchemy's.

    Attributes:
        bridge: Begins and ends transactions.
        codecs: The driver, which knows the types that have a codec of the user's.
    """

    supports_statement_cache = True
    bridge: Bridge
    codecs: Any

    def do_begin(self, dbapi_connection: Any) -> None:
        """Begin over the bridge."""
        self.bridge.begin()

    def do_commit(self, dbapi_connection: Any) -> None:
        """Commit over the bridge."""
        self.bridge.commit()

    def do_rollback(self, dbapi_connection: Any) -> None:
        """Roll back over the bridge."""
        self.bridge.roll_back()

    def do_close(self, dbapi_connection: Any) -> None:
        """Leave the connection to whom it belongs."""

    def do_terminate(self, dbapi_connection: Any) -> None:
        """Leave the connection to whom it belongs."""

    def set_isolation_level(self, dbapi_connection: Any, level: Any) -> None:
        """Let the next transaction begin with this level."""
        self.bridge.isolate(level)

    def reset_isolation_level(self, dbapi_connection: Any) -> None:
        """Let the next transaction begin with the server's own level."""
        self.bridge.reset_isolation()


@cache
def register(driver_class: type[Driver]) -> str:
    """Make a dialect for a driver known to SQLAlchemy; return the scheme that names it in URLs."""
    dialect, package = driver_class.dialect, driver_class.package
    module, class_name = _DIALECTS[dialect, package]
    base = getattr(importlib.import_module(f"sqlalchemy.dialects.{module}"), class_name)
    parts = {"supports_statement_cache": True, **driver_class.dialect_parts(base)}
    name = f"fastdb_{package}"
    globals()[name] = type(class_name, (BridgedDialect, base), parts)
    registry.register(f"{dialect}.{name}", __name__, name)
    return f"{dialect}+{name}"
