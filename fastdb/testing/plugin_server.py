"""What the templates and clones of the pytest plugin need of a server."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Final

from fastdb.exceptions import Error, OperationalError
from fastdb.testing import databases

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from fastdb.queries import Queries
    from fastdb.url import DatabaseURL

__all__ = ["Names", "Server", "SetUpError", "until"]

#: Seconds to wait for another worker, or another run, that makes a template.
WAIT_SECONDS: Final = 600.0
#: Seconds between two looks.
PAUSE: Final = 0.05
#: Bytes of the user's own name that ours begin with; names have 63 on PostgreSQL.
BASE_BYTES: Final = 30


class SetUpError(Error):
    """A database for tests cannot be made; the message says why, and the way out."""


async def until(attempt: Callable[[], Awaitable[bool]], what: str) -> None:
    """Repeat `attempt` until it succeeds.

    Raises:
        OperationalError: It does not.
    """
    import asyncio

    start = monotonic()
    while not await attempt():
        if monotonic() - start > WAIT_SECONDS:
            raise OperationalError(f"{what} has not ended within {WAIT_SECONDS:g} s")
        await asyncio.sleep(PAUSE)


class Names:
    """The names of our databases: the user's own, shortened, and what we add.

    ``app_fastdb_template_<hash>`` is a template, ``app_fastdb_gw0_<run>`` the clone of a worker of
    one run, whose other databases have something more at the end.

    Attributes:
        prefix: What all of them begin with.
        owner: This process, as its databases and its lock name it.
    """

    def __init__(self, base: str, worker: str, run: str) -> None:
        """Name the databases of a process.

        Args:
            base: The name in the user's URL.
            worker: Of pytest-xdist, or "".
            run: 8 hexadecimal digits of this process alone.
        """
        short = base.encode()[:BASE_BYTES].decode(errors="ignore")
        self.prefix = f"{short}_fastdb_" if short else "fastdb_"
        word = re.sub("[^a-z0-9]", "", worker.lower())[:8] or "main"
        self.owner = f"{word}_{run}"

    def template(self, fingerprint: str) -> str:
        """Return the name of a template."""
        return f"{self.prefix}template_{fingerprint}"

    def own(self, ending: str = "") -> str:
        """Return a name of a database of this process."""
        return f"{self.prefix}{self.owner}{ending}"

    def is_template(self, name: str) -> bool:
        """Return whether a name is that of a template."""
        return bool(re.fullmatch("template_[0-9a-f]{16}", name.removeprefix(self.prefix)))

    def owner_of(self, name: str) -> str | None:
        """Return whose database it is by its name; None where it is nobody's."""
        found = re.fullmatch(
            "([a-z0-9]+_[0-9a-f]{8})(_making|_[0-9]+)?", name.removeprefix(self.prefix)
        )
        return found[1] if found else None

    def lock(self, name: str) -> str:
        """Return the name of a lock, which says nothing to others and is short enough."""
        return hashlib.sha256(f"{self.prefix} {name}".encode()).hexdigest()[:32]


class Server(ABC):
    """A server, or a folder of SQLite files, with databases of ours; on one event loop.

    Its methods raise the errors of fastdb.
    """

    def __init__(self, url: DatabaseURL, names: Names) -> None:
        """Describe it; nothing is connected yet.

        Args:
            url: The user's; its database is never touched.
            names: Of ours.
        """
        self.url = url
        self.names = names

    def url_of(self, name: str) -> DatabaseURL:
        """Return the URL of a database of ours."""
        return self.url.replace(database=name)

    @abstractmethod
    async def connect(self) -> None:
        """Connect as far as that is needed, and be ready for :meth:`lock`."""

    @abstractmethod
    async def disconnect(self) -> None:
        """Give up the locks, and disconnect."""

    @abstractmethod
    async def lock(self, name: str) -> bool:
        """Take a lock that ends with this process; return whether it was free."""

    @abstractmethod
    async def unlock(self, name: str) -> None:
        """Give a lock back."""

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Keep other processes away that make or drop databases of the same base."""
        await until(lambda: self.lock("all"), "another run's making of a database for tests")
        try:
            yield
        finally:
            await self.unlock("all")

    @abstractmethod
    async def listed(self) -> list[str]:
        """Return the names of our databases that bear our marker, the oldest first."""

    async def has_template(self, name: str) -> bool:
        """Return whether there is a template of this name, whole."""
        return name in await self.listed()

    def name_while_making(self, name: str) -> str:
        """Return the name under which a template is made."""
        return self.names.own("_making")

    @abstractmethod
    async def finish_template(self, making: str, name: str) -> None:
        """Let what was made as `making` be the template `name`."""

    def admin(self) -> Queries | None:
        """Return what is connected to the server already, if anything is."""
        return None

    @abstractmethod
    async def clone(self, template: str, name: str) -> None:
        """Make a database as the template is."""

    async def create(self, name: str) -> None:
        """Make an empty database."""
        await databases.create(self.url_of(name), {}, admin=self.admin())

    async def drop(self, name: str) -> None:
        """Drop a database of ours, if it is there."""
        await self.drop_url(self.url_of(name))

    async def drop_url(self, url: DatabaseURL) -> None:
        """Drop the database of a URL, if it is there and ours."""
        await databases.drop(url, {}, admin=self.admin())
