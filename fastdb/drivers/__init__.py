"""The drivers, each imported when a URL first names its scheme."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from fastdb.exceptions import OptionError

if TYPE_CHECKING:
    from fastdb.drivers.base import Driver

__all__ = ["load_driver"]

#: scheme -> "module:class"
_DRIVERS = {
    "sqlite": "sqlite:SQLiteDriver",
    "sqlite+aiosqlite": "sqlite:SQLiteDriver",
    "postgresql": "postgresql:PostgreSQLDriver",
    "postgres": "postgresql:PostgreSQLDriver",
    "postgresql+asyncpg": "postgresql:PostgreSQLDriver",
    "postgres+asyncpg": "postgresql:PostgreSQLDriver",
    "mysql": "mysql:MySQLDriver",
    "mariadb": "mysql:MySQLDriver",
    "mysql+aiomysql": "mysql:MySQLDriver",
    "mariadb+aiomysql": "mysql:MySQLDriver",
    "mysql+asyncmy": "asyncmy:AsyncmyDriver",
    "mariadb+asyncmy": "asyncmy:AsyncmyDriver",
}


def load_driver(scheme: str) -> type[Driver]:
    """Return the driver class that serves `scheme`.

    Raises:
        OptionError: No driver of ours serves it; the message names the one that does.
        DriverNotInstalledError: The driver's package is missing.
    """
    try:
        module, name = _DRIVERS[scheme].split(":")
    except KeyError:
        raise OptionError(_unknown_scheme(scheme)) from None
    loaded = importlib.import_module(f"{__name__}.{module}")
    return cast("type[Driver]", getattr(loaded, name))


def _unknown_scheme(scheme: str) -> str:
    dialect = scheme.partition("+")[0]
    same = [known for known in _DRIVERS if known.partition("+")[0] == dialect]
    if same:
        return f"fastdb has no driver for the scheme {scheme!r}; use {' or '.join(map(repr, same))}"
    return f"unknown scheme {scheme!r}; fastdb knows {', '.join(map(repr, _DRIVERS))}"
