"""Templates and clones on PostgreSQL, and on MySQL and MariaDB."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from fastdb.exceptions import Error
from fastdb.testing import databases
from fastdb.testing.plugin_mysql import copy_database
from fastdb.testing.plugin_server import Names, Server, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fastdb.connection import Connection
    from fastdb.database import Database
    from fastdb.url import DatabaseURL

__all__ = ["MySQL", "PostgreSQL"]

#: What a template on MySQL bears beside the marker, once it is whole; with the time in its comment.
WHOLE = "fastdb_testing_whole"


class ServerWithLocks(Server):
    """A server that frees the locks of a connection that ends, such as a killed run's."""

    def __init__(self, url: DatabaseURL, names: Names) -> None:
        """Describe it; nothing is connected yet."""
        super().__init__(url, names)
        self._admin: Database | None = None
        self._connection: Connection | None = None

    async def connect(self) -> None:
        """Connect, and hold one connection."""
        self._admin = databases._admin(self.url, {}, databases._servers_own(self.url))
        await self._admin.connect()
        self._connection = await self._admin.connection().__aenter__()

    async def disconnect(self) -> None:
        """Disconnect, which frees the locks."""
        assert self._admin is not None
        self._connection = None
        await self._admin.disconnect(0)

    def admin(self) -> Connection:
        """Return the connection that holds the locks."""
        return self.held()

    def held(self) -> Connection:
        """Return the connection that holds the locks."""
        assert self._connection is not None, "call connect() first"
        return self._connection


class PostgreSQL(ServerWithLocks):
    """A PostgreSQL server, which copies templates itself."""

    def _key(self, name: str) -> int:
        return int(self.names.lock(name)[:15], 16)

    async def lock(self, name: str) -> bool:
        """Take an advisory lock."""
        query = "SELECT pg_try_advisory_lock(:key)"
        return bool(await self.held().fetch_val(query, {"key": self._key(name)}))

    async def unlock(self, name: str) -> None:
        """Give it back."""
        query = "SELECT pg_advisory_unlock(:key)"
        await self.held().fetch_val(query, {"key": self._key(name)})

    async def listed(self) -> list[str]:
        """Return the names of our databases, in the order in which they were made."""
        query = """
            SELECT datname::text FROM pg_catalog.pg_database
            WHERE left(datname::text, length(:prefix)) = :prefix
            AND shobj_description(oid, 'pg_database') = :marker ORDER BY oid
        """
        values = {"prefix": self.names.prefix, "marker": databases.MARKER}
        return [record[0] for record in await self.held().fetch_all(query, values)]

    async def finish_template(self, making: str, name: str) -> None:
        """Let nobody connect to it, who would keep it from being copied, and rename it."""
        made, wanted = (databases._quoted(self.url_of(each)) for each in (making, name))
        await self.held().execute(f"ALTER DATABASE {made} ALLOW_CONNECTIONS false")
        sql = f"ALTER DATABASE {made} RENAME TO {wanted}"
        await self._unused(making, lambda: self.held().execute(sql))

    async def clone(self, template: str, name: str) -> None:
        """Make a database from the template, whoever is connected to that."""
        source, target = self.url_of(template), self.url_of(name)

        async def copy() -> None:
            await databases.create(target, {}, template=source, admin=self.held())

        await self._unused(template, copy)

    async def _unused(self, name: str, step: Callable[[], Awaitable[Any]]) -> None:
        """Do what a database of ours must not be in use for; end connections that use it."""

        async def attempt() -> bool:
            try:
                await step()
            except Error as error:
                if getattr(error, "sqlstate", None) != "55006":  # object_in_use
                    raise
                await self.held().fetch_all(
                    "SELECT pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity "
                    "WHERE datname = :name",
                    {"name": name},
                )
                return False
            return True

        await until(attempt, f"another use of the database {name!r}")


class MySQL(ServerWithLocks):
    """A MySQL or MariaDB server, whose databases are copied table by table."""

    async def lock(self, name: str) -> bool:
        """Take a lock of ``GET_LOCK``, which the whole server shares."""
        query = "SELECT GET_LOCK(:name, 0)"
        return bool(await self.held().fetch_val(query, {"name": self.names.lock(name)}))

    async def unlock(self, name: str) -> None:
        """Give it back."""
        query = "SELECT RELEASE_LOCK(:name)"
        await self.held().fetch_val(query, {"name": self.names.lock(name)})

    async def listed(self) -> list[str]:
        """Return the names of our databases, the templates in the order in which they were made."""
        whole = await self._bearing(WHOLE)
        return [
            name for name in await self._bearing(databases.PROCEDURE) if name not in whole
        ] + whole

    async def _bearing(self, procedure: str) -> list[str]:
        query = """
            SELECT routine_schema FROM information_schema.routines
            WHERE routine_name = :procedure
            AND left(routine_schema, char_length(:prefix)) = :prefix ORDER BY routine_comment
        """
        values = {"prefix": self.names.prefix, "procedure": procedure}
        return [record[0] for record in await self.held().fetch_all(query, values)]

    def name_while_making(self, name: str) -> str:
        """Return the name itself: databases cannot be renamed here."""
        return name

    async def has_template(self, name: str) -> bool:
        """Return whether the template bears the mark of one that is whole."""
        return name in await self._bearing(WHOLE)

    async def finish_template(self, making: str, name: str) -> None:
        """Mark it as whole."""
        database = databases._quoted(self.url_of(name))
        # The server's own time of making is one of whole seconds.
        await self.held().execute(
            f"CREATE PROCEDURE {database}.{WHOLE}() COMMENT '{time.time_ns():020}' DO 0"
        )

    async def clone(self, template: str, name: str) -> None:
        """Make a database, and all in it that is in the template."""
        await self.create(name)
        try:
            source, target = self.url_of(template), self.url_of(name)
            await copy_database(source, target, {databases.PROCEDURE, WHOLE})
        except BaseException:
            await self.drop(name)
            raise
