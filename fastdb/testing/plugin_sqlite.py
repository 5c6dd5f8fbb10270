"""Templates and clones of SQLite: files beside the user's, and locks that are files, too."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from fastdb.testing import databases
from fastdb.testing.plugin_server import Names, Server

if TYPE_CHECKING:
    from fastdb.url import DatabaseURL

__all__ = ["SQLite"]


class SQLite(Server):
    """A folder with databases of ours, and files that are locked as SQLite locks them.

    So locks work on every system, and end with the process.
    """

    def __init__(self, url: DatabaseURL, names: Names, path: Path) -> None:
        """Describe it; nothing is written yet.

        Args:
            url: The user's.
            names: Of ours.
            path: Of the user's file, beside which ours are.
        """
        super().__init__(url, names)
        self._folder = path.parent
        self._suffix = path.suffix
        self._is_uri = url.database.startswith("file:")
        self._locks: dict[str, sqlite3.Connection] = {}

    def url_of(self, name: str) -> DatabaseURL:
        """Return the URL of a file."""
        path = self.path_of(name).as_posix()
        return self.url.replace(database=f"file:{quote(path)}" if self._is_uri else path)

    def path_of(self, name: str) -> Path:
        """Return the path of a file."""
        return self._folder / f"{name}{self._suffix}"

    async def connect(self) -> None:
        """Do nothing; files need no connection."""

    async def disconnect(self) -> None:
        """Give up the locks."""
        for name in list(self._locks):
            await self.unlock(name)

    def _lock_path(self, name: str) -> Path:
        return self._folder / f"{self.names.prefix}{name}.lock"

    async def lock(self, name: str) -> bool:
        """Lock a file; return whether it was free."""
        path = self._lock_path(name)
        connection = sqlite3.connect(path, timeout=0, isolation_level=None)
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except BaseException as error:
            connection.close()
            if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF == 5:
                return False  # SQLITE_BUSY
            raise
        self._locks[name] = connection
        return True

    async def unlock(self, name: str) -> None:
        """Unlock a file; those of the processes, which are many, are removed."""
        if name != "all":
            with suppress(OSError):
                os.unlink(self._lock_path(name))
        self._locks.pop(name).close()

    async def listed(self) -> list[str]:
        """Return the names of our databases, the oldest first."""
        found = []
        for path in self._folder.glob(f"{escape(self.names.prefix)}*{escape(self._suffix)}"):
            name = path.name.removesuffix(self._suffix)
            is_named = self.names.is_template(name) or self.names.owner_of(name)
            with suppress(OSError):
                if is_named and _is_marked(path):
                    found.append((path.stat().st_mtime_ns, name))
        return [name for _, name in sorted(found)]

    async def has_template(self, name: str) -> bool:
        """Return whether there is a template of this name; it is not opened."""
        path = self.path_of(name)
        return path.is_file() and _is_marked(path)

    async def clone(self, template: str, name: str) -> None:
        """Copy the file."""
        await databases.create(self.url_of(name), {}, template=self.url_of(template))

    async def finish_template(self, making: str, name: str) -> None:
        """Put all of it into the one file, and rename that."""
        path = self.path_of(making)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        os.replace(path, self.path_of(name))


def _is_marked(path: Path) -> bool:
    """Return whether a file bears the marker, without opening it as a database."""
    with path.open("rb") as file:
        return file.read(72)[68:] == databases.APPLICATION_ID.to_bytes(4, "big")
