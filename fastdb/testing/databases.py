"""Make, find and drop databases for tests; never one that somebody else has made.

A database that is made here bears a marker that no tool for schemas takes for a table: a comment
on the database (PostgreSQL), an empty stored procedure (MySQL and MariaDB), the ``application_id``
of the file (SQLite). Without it, nothing is dropped.
"""

from __future__ import annotations

import os
import shutil
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from fastdb.database import Database
from fastdb.drivers.sqlite import SQLiteDriver
from fastdb.exceptions import DatabaseError, Error, OptionError, ProgrammingError
from fastdb.url_text import driver_dialect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastdb.queries import Queries
    from fastdb.url import DatabaseURL

__all__ = ["UnsafeDatabaseError", "create", "drop", "exists", "is_memory", "is_ours"]

MARKER = "made by fastdb.testing"
PROCEDURE = "fastdb_testing_marker"
#: "fsdb", as ``PRAGMA application_id`` has it.
APPLICATION_ID = 0x66736462


class UnsafeDatabaseError(Error):
    """What was asked for would drop or empty a database that fastdb has not made for tests."""


def _quoted(url: DatabaseURL) -> str:
    mark = "`" if driver_dialect(url.dialect) == "mysql" else '"'
    return mark + url.database.replace(mark, mark * 2) + mark


#: Options that are meant for the connections of the tests.
_OF_TESTS = frozenset(
    {"init", "max_overflow", "max_size", "maxsize", "min_size", "minsize", "pool_size", "setup"}
)


def _admin(url: DatabaseURL, options: dict[str, Any], name: str) -> Database:
    """Return a Database, not connected, on the same server."""
    query = {key: value for key, value in url.options.items() if key not in _OF_TESTS}
    kept = {key: value for key, value in options.items() if key not in _OF_TESTS}
    return Database(url.replace(database=name, options=query), **kept)


def _servers_own(url: DatabaseURL) -> str:
    """Return the name of the database that one connects to in order to make others."""
    return "postgres" if driver_dialect(url.dialect) == "postgresql" else ""


@asynccontextmanager
async def _administered(
    url: DatabaseURL, options: dict[str, Any], admin: Queries | None
) -> AsyncIterator[Queries]:
    """Provide what queries on the server go through: `admin`, or a connection for the block."""
    if admin is not None:
        yield admin
        return
    async with _admin(url, options, _servers_own(url)) as made:
        yield made


def is_memory(database: Database) -> bool:
    """Return whether a database is in memory, gone with its connection."""
    return database._driver.single_connection


def _path(database: Database) -> Path:
    """Return the file of a SQLite database that is not in memory."""
    driver = database._driver
    assert isinstance(driver, SQLiteDriver)
    settings = driver.settings
    return Path(unquote(settings.path) if settings.is_uri else settings.path)


async def exists(
    url: DatabaseURL, options: dict[str, Any], *, admin: Queries | None = None
) -> bool:
    """Return whether there is a database of this name.

    Args:
        url: Of the database.
        options: Of the Database, to connect with.
        admin: What is connected to the server's own database already; here and below.

    Raises:
        ConnectionFailedError: The server cannot be reached.
    """
    if driver_dialect(url.dialect) == "sqlite":
        database = Database(url, **options)
        return is_memory(database) or _path(database).exists()
    if driver_dialect(url.dialect) == "postgresql":
        query = "SELECT count(*) FROM pg_catalog.pg_database WHERE datname = :name"
    else:
        query = "SELECT count(*) FROM information_schema.schemata WHERE schema_name = :name"
    async with _administered(url, options, admin) as server:
        return bool(await server.fetch_val(query, {"name": url.database}))


async def is_ours(
    url: DatabaseURL, options: dict[str, Any], *, admin: Queries | None = None
) -> bool:
    """Return whether the database, which exists, bears our marker."""
    if driver_dialect(url.dialect) == "sqlite":
        async with _admin(url, options, url.database) as database:
            return bool(await database.fetch_val("PRAGMA application_id") == APPLICATION_ID)
    if driver_dialect(url.dialect) == "postgresql":
        query = (
            "SELECT count(*) FROM pg_catalog.pg_database "
            "WHERE datname = :name AND shobj_description(oid, 'pg_database') = :marker"
        )
    else:
        query = (
            "SELECT count(*) FROM information_schema.routines "
            "WHERE routine_schema = :name AND routine_name = :marker"
        )
    marker = MARKER if driver_dialect(url.dialect) == "postgresql" else PROCEDURE
    async with _administered(url, options, admin) as server:
        return bool(await server.fetch_val(query, {"name": url.database, "marker": marker}))


async def create(
    url: DatabaseURL,
    options: dict[str, Any],
    *,
    template: DatabaseURL | None = None,
    admin: Queries | None = None,
) -> None:
    """Make a database, with our marker. Where that fails half-way, there is none.

    Args:
        url: Of the database.
        options: Of the Database, to connect with.
        template: Of a database of ours on the same server, which is copied: on PostgreSQL and
            SQLite.
        admin: As of :func:`exists`.

    Raises:
        DatabaseError: There is one already, or the role must not make any.
    """
    if driver_dialect(url.dialect) == "sqlite":
        path = _path(Database(url, **options))
        if path.exists():
            raise OptionError(f"there is a file {str(path)!r} already")
        if template is not None:
            # The marker is in the file.
            shutil.copyfile(_path(Database(template, **options)), path)
            return
        async with _admin(url, options, url.database) as database:
            await database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        return
    name = _quoted(url)
    async with _administered(url, options, admin) as server:
        kind = " CHARACTER SET utf8mb4" if driver_dialect(url.dialect) == "mysql" else ""
        if template is not None:
            kind = f" TEMPLATE {_quoted(template)}"
        try:
            await server.execute(f"CREATE DATABASE {name}{kind}")
        except DatabaseError as error:
            # insufficient_privilege; ER_DBACCESS_DENIED_ERROR
            if getattr(error, "sqlstate", None) != "42501" and getattr(error, "errno", 0) != 1044:
                raise
            grant = (
                "ALTER ROLE ... CREATEDB does that"
                if driver_dialect(url.dialect) == "postgresql"
                else f"GRANT ALL PRIVILEGES ON `{url.database}`.* does that, or on a pattern"
            )
            raise ProgrammingError(
                f"the role {url.username!r} must be allowed to create databases ({error}); {grant}"
            ) from error
        if driver_dialect(url.dialect) == "postgresql":
            mark = f"COMMENT ON DATABASE {name} IS '{MARKER}'"
        else:
            mark = f"CREATE PROCEDURE {name}.{PROCEDURE}() COMMENT '{MARKER}' DO 0"
        try:
            await server.execute(mark)
        except BaseException:
            await server.execute(f"DROP DATABASE {name}")
            raise


async def drop(url: DatabaseURL, options: dict[str, Any], *, admin: Queries | None = None) -> None:
    """Drop a database that we have made, if it is there.

    Raises:
        UnsafeDatabaseError: It does not bear our marker.
        DatabaseError: The server refuses.
    """
    if not await exists(url, options, admin=admin):
        return
    if not await is_ours(url, options, admin=admin):
        raise UnsafeDatabaseError(
            f"the database {url.database!r} is not dropped: fastdb.testing has not made it; "
            "drop it by hand if it is one for tests, or use it as it is with use_existing=True"
        )
    if driver_dialect(url.dialect) == "sqlite":
        database = Database(url, **options)
        if not is_memory(database):
            path = _path(database)
            for ending in ("-wal", "-shm", "-journal", ""):
                with suppress(FileNotFoundError):
                    os.unlink(f"{path}{ending}")
        return
    # Connections of a test that was killed may still be open.
    force = " WITH (FORCE)" if driver_dialect(url.dialect) == "postgresql" else ""
    async with _administered(url, options, admin) as server:
        await server.execute(f"DROP DATABASE {_quoted(url)}{force}")
