"""What the fixtures of the pytest plugin do, which ``_fastdb_pytest`` defines.

That module stands outside of the package: pytest imports it in every project, and it imports this
one, and fastdb, where a test asks for something.
"""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdb.database import Database
from fastdb.exceptions import Error
from fastdb.testing import databases
from fastdb.testing.host import Host
from fastdb.testing.plugin_schema import Schema
from fastdb.testing.plugin_server import Names, SetUpError
from fastdb.url import DatabaseURL
from fastdb.url_text import driver_dialect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastdb.testing.plugin_server import Server

__all__ = ["ENVIRONMENT", "FillError", "SetUpError", "Workshop", "missing_url"]

#: What the fixture ``fastdb_url`` reads.
ENVIRONMENT = "FASTDB_TEST_URL"

#: Templates of one base that are kept: branches of a project differ, and take turns.
KEPT_TEMPLATES = 4

#: Options of SQLite that a file has not.
_OF_MEMORY = frozenset({"cache", "mode", "uri"})

logger = logging.getLogger("fastdb.testing")


class FillError(Exception):
    """What makes the schema failed, with an error that is the user's to see.

    Attributes:
        error: That one.
    """

    def __init__(self, error: Exception) -> None:
        """Carry `error`."""
        super().__init__(str(error))
        self.error = error


class Workshop:
    """Make the databases of one process of a test run: a template, and clones of it.

    The template is the same for all processes, and the next runs, while what fills it is; clones
    are this process's. Everything that is dropped is of ours.
    """

    def __init__(
        self, url: Any, schema: Callable[[], Schema], spare_folder: Callable[[], Path]
    ) -> None:
        """Connect to the server, as far as that is needed.

        Args:
            url: The user's, whose database is never touched.
            schema: Returns what databases hold.
            spare_folder: Returns where files of SQLite are whose URL is one in memory.

        Raises:
            SetUpError: The URL is none that serves, or the server cannot be reached.
        """
        self._numbers = itertools.count(1)
        with _told("use what fastdb_url returns"):
            self._server = _server(DatabaseURL(url), spare_folder)
        with _told("make databases for tests"):
            self._schema = schema()
            fingerprint = self._schema.fingerprint(self._server.url.dialect)
        self._template = self._server.names.template(fingerprint)
        # The host's Database is not connected: what it is there for is its loop, whose thread is
        # none of a test's, and ends with this one.
        self._described = Database(self._server.url)
        self._host = Host(self._described)
        try:
            with _told(f"use {self._server.url.obscure_password} for databases of tests"):
                self._host.call(self._open())
        except BaseException:
            self._host.end_from_thread()
            raise

    def close(self) -> None:
        """Disconnect."""
        try:
            self._host.call(self._server.disconnect())
        finally:
            self._host.end_from_thread()

    async def _open(self) -> None:
        server = self._server
        await server.connect()
        try:
            async with server.alone():
                if not await server.lock(server.names.owner):
                    raise SetUpError(f"another process is {server.names.owner!r}; run it again")
                await self._sweep()
        except BaseException:
            await server.disconnect()
            raise

    async def _sweep(self) -> None:
        """Drop what killed runs have left, and the oldest templates."""
        server, names = self._server, self._server.names
        templates = []
        for name in await server.listed():
            if names.is_template(name):
                templates.append(name)
                continue
            owner = names.owner_of(name)
            if owner is not None and owner != names.owner and await server.lock(owner):
                try:
                    await self._tidy(name)
                finally:
                    await server.unlock(owner)
        others = [name for name in templates if name != self._template]
        for name in others[: -(KEPT_TEMPLATES - 1)]:
            await self._tidy(name)

    async def _tidy(self, name: str) -> None:
        """Drop a database, where we may: it may be another role's."""
        try:
            await self._server.drop(name)
        except Error as error:
            logger.info("cannot drop %r, which is left over: %s", name, error)

    # -- what fixtures ask for

    def template(self) -> DatabaseURL:
        """Make the template, if it is not there; return its URL.

        Raises:
            SetUpError: It cannot be made.
            FillError: What fills it failed.
        """
        self._host.call(self._ensure_template())
        return self._server.url_of(self._template)

    def clone(self, *, numbered: bool = False) -> DatabaseURL:
        """Make a clone of the template; return its URL.

        Args:
            numbered: Whether it is one of many of this process.

        Raises:
            SetUpError: It cannot be made.
            FillError: The template was gone, and what fills it failed.
        """
        name = self._server.names.own(f"_{next(self._numbers)}" if numbered else "")
        self._host.call(self._clone(name))
        return self._server.url_of(name)

    def drop(self, url: DatabaseURL) -> None:
        """Drop a clone.

        Raises:
            SetUpError: It cannot be dropped.
        """
        with _told("drop a database of the tests"):
            self._host.call(self._server.drop_url(url))

    async def _ensure_template(self) -> None:
        with _told("make the template of databases for tests"):
            async with self._server.alone():
                await self._make_template()

    async def _clone(self, name: str) -> None:
        with _told("make a database for tests"):
            async with self._server.alone():
                # Another run may have dropped it.
                await self._make_template()
                await self._server.clone(self._template, name)

    async def _make_template(self) -> None:
        server, name = self._server, self._template
        if await server.has_template(name):
            return
        making = server.name_while_making(name)
        await server.drop(making)  # what a killed run has left
        await server.create(making)
        try:
            async with Database(server.url_of(making)) as database:
                try:
                    await self._schema.fill(database)
                except Exception as error:
                    raise FillError(error) from error
            await server.finish_template(making, name)
        except BaseException:
            await server.drop(making)
            raise


def _server(url: DatabaseURL, spare_folder: Callable[[], Path]) -> Server:
    """Return the server of a URL, which must be one that fastdb knows."""
    described = Database(url)  # refuses what it does not know
    worker, run = os.environ.get("PYTEST_XDIST_WORKER", ""), secrets.token_hex(4)
    if driver_dialect(url.dialect) == "sqlite":
        from fastdb.testing.plugin_sqlite import SQLite

        if databases.is_memory(described):
            kept = {name: url.options[name] for name in url.options if name not in _OF_MEMORY}
            url = url.replace(database=(spare_folder() / "memory.db").as_posix(), options=kept)
        # Whatever directory a test changes to.
        path = databases._path(Database(url)).absolute()
        if not path.parent.is_dir():
            raise SetUpError(f"there is no folder {str(path.parent)!r}; make it")
        return SQLite(url, Names(path.stem, worker, run), path)
    from fastdb.testing.plugin_servers import MySQL, PostgreSQL

    kind = PostgreSQL if driver_dialect(url.dialect) == "postgresql" else MySQL
    return kind(url, Names(url.database, worker, run))


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Raise errors of fastdb as a SetUpError that says what it was about."""
    try:
        yield
    except SetUpError:
        raise
    except (Error, OSError, sqlite3.Error) as error:
        raise SetUpError(f"cannot {what}: {error}{_way_out(error)}") from error


def _way_out(error: Exception) -> str:
    denied = getattr(error, "sqlstate", None) == "42501" or (
        error.args and error.args[0] in (1044, 1227)
    )
    if denied:
        return (
            "; the role of fastdb_url must be allowed to create databases: CREATEDB on "
            r"PostgreSQL, ALL PRIVILEGES ON `%\_fastdb\_%`.* on MySQL and MariaDB"
        )
    return ""


def missing_url() -> str:
    """Return what to tell where there is no URL."""
    return (
        "the fixtures of fastdb need a database server: set the environment variable "
        f"{ENVIRONMENT}, such as postgresql://user:password@localhost/app or sqlite:///app.db, "
        "or define a session fixture `fastdb_url` that returns such a URL; that database itself "
        "is never changed"
    )
