"""A Database for tests, on a database of its own that it makes."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any, ClassVar

from fastdb.coroutines import coroutine_function
from fastdb.database import Database
from fastdb.options import boolean
from fastdb.testing import databases
from fastdb.testing.databases import UnsafeDatabaseError
from fastdb.url import DatabaseURL

if TYPE_CHECKING:
    from collections.abc import Coroutine

    import sqlalchemy

__all__ = ["DatabaseTestClient"]


class DatabaseTestClient(Database):
    """A Database on a database of its own, whose name is the real one's with a prefix.

    The database is made once for each client, not at each ``connect()``. One that an earlier
    client has made is dropped first and made anew; one that nobody of us has made is refused, or
    used as it is with ``use_existing=True``. Under pytest-xdist each worker has its own.

    Attributes:
        test_db_url: The URL of the test's database.
        testclient_default_test_prefix: What `test_prefix` is unless it is given; and so on.
    """

    testclient_default_force_rollback: ClassVar[bool] = False
    testclient_default_full_isolation: ClassVar[bool] = False
    testclient_default_use_existing: ClassVar[bool] = False
    testclient_default_drop_database: ClassVar[bool] = False
    testclient_default_lazy_setup: ClassVar[bool] = False
    testclient_default_test_prefix: ClassVar[str] = "test_"
    testclient_default_poll_interval: ClassVar[float | None] = None

    def __init__(
        self,
        url: str | DatabaseURL | sqlalchemy.URL | Database,
        *,
        force_rollback: bool | None = None,
        full_isolation: bool | None = None,
        use_existing: bool | None = None,
        drop_database: bool | None = None,
        lazy_setup: bool | None = None,
        test_prefix: str | None = None,
        poll_interval: float | None = None,
        **options: Any,
    ) -> None:
        """Describe the test's database, and make it unless ``lazy_setup=True``.

        Args:
            url: Of the real database, which is never touched; or a Database, whose URL and
                options are taken.
            force_rollback: Let everything happen in a transaction that ``disconnect()`` rolls back.
            full_isolation: Accepted for code written for `databasez`; there is nothing to do.
            use_existing: Use a database of the test's name as it is, if there is one.
            drop_database: Drop the test's database at ``disconnect()``, if we have made it.
            lazy_setup: Make the database at the first ``connect()``, not here.
            test_prefix: What the test's name begins with. Empty: use the real database as it is;
                it is never made, emptied or dropped.
            poll_interval: Accepted for code written for `databasez`; nothing is polled.
            options: Of the Database.

        Raises:
            UnsafeDatabaseError: There is a database of the test's name that we have not made.
            ConnectionFailedError: The server cannot be reached.
            DatabaseError: The server refuses to make the database.
        """
        if isinstance(url, Database):
            options = {**url.options, **options}
            url = url.url
        defaults = type(self)
        prefix = defaults.testclient_default_test_prefix if test_prefix is None else test_prefix
        real = DatabaseURL(url)
        self.test_db_url = str(url_for_tests(real, prefix, options))
        self._made_for_tests = bool(prefix)
        self._uses_existing = _chosen(
            "use_existing", use_existing, defaults.testclient_default_use_existing
        )
        self._drops = _chosen(
            "drop_database", drop_database, defaults.testclient_default_drop_database
        )
        _chosen("full_isolation", full_isolation, defaults.testclient_default_full_isolation)
        self._is_set_up = False
        self._setting_up = threading.Lock()
        super().__init__(
            self.test_db_url,
            force_rollback=_chosen(
                "force_rollback", force_rollback, defaults.testclient_default_force_rollback
            ),
            **options,
        )
        if not _chosen("lazy_setup", lazy_setup, defaults.testclient_default_lazy_setup):
            _run_apart(self._set_up())

    async def _make_ready(self) -> None:
        """Make the test's database, if that is still to do."""
        if not self._is_set_up:
            # In a thread: another loop's client may be at it, and that wait must block no loop.
            await asyncio.to_thread(_run_apart, self._set_up())

    async def _disconnect(self, timeout: float | None, task: asyncio.Task[Any] | None) -> None:
        was_connected = self._pool is not None
        await super()._disconnect(timeout, task)
        if self._drops and self._made_for_tests and was_connected:
            self._is_set_up = False
            if await databases.is_ours(self.url, self.options):
                await databases.drop(self.url, self.options)

    async def _set_up(self) -> None:
        """Make the test's database, once."""
        with self._setting_up:
            if self._is_set_up:
                return
            if self._made_for_tests and not databases.is_memory(self):
                await self._make()
            self._is_set_up = True

    async def _make(self) -> None:
        url, options = self.url, self.options
        if await databases.exists(url, options):
            if self._uses_existing:
                return
            if not await databases.is_ours(url, options):
                raise UnsafeDatabaseError(
                    f"there is a database {url.database!r} that fastdb.testing has not made; "
                    "use it as it is with use_existing=True, or choose another test_prefix"
                )
            await databases.drop(url, options)
        await databases.create(url, options)

    @coroutine_function
    def is_database_exist(self) -> Coroutine[Any, Any, bool]:
        """Return whether the test's database is there."""
        return self.database_exists(self.test_db_url)

    @classmethod
    async def database_exists(cls, url: str | DatabaseURL | sqlalchemy.URL) -> bool:
        """Return whether there is a database of the name in `url`."""
        return await databases.exists(DatabaseURL(url), {})

    @classmethod
    async def create_database(cls, url: str | DatabaseURL | sqlalchemy.URL) -> None:
        """Make the database that `url` names, marked as one for tests.

        Raises:
            DatabaseError: There is one already, or the role must not make any.
        """
        await databases.create(DatabaseURL(url), {})

    @classmethod
    async def drop_database(cls, url: str | DatabaseURL | sqlalchemy.URL) -> None:
        """Drop the database that `url` names, if it is there and marked as one for tests.

        Raises:
            UnsafeDatabaseError: It is not.
        """
        await databases.drop(DatabaseURL(url), {})


def url_for_tests(url: DatabaseURL, prefix: str, options: dict[str, Any]) -> DatabaseURL:
    """Return the URL of the test's database.

    Args:
        url: Of the real one.
        prefix: Put before its name, which a worker of pytest-xdist ends with its own.
        options: Of the Database.
    """
    if not prefix or databases.is_memory(Database(url, **options)):
        return url
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    ending = f"_{worker}" if worker else ""
    if url.dialect != "sqlite":
        return url.replace(database=f"{prefix}{url.database}{ending}")
    folder, slash, name = url.database.rpartition("/")
    stem, suffix = os.path.splitext(name)
    return url.replace(database=f"{folder}{slash}{prefix}{stem}{ending}{suffix}")


def _chosen(name: str, given: bool | None, default: bool) -> bool:
    return boolean(name, default if given is None else given)


def _run_apart(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end on a loop in a thread of its own; raise what it raises."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(coroutine)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="fastdb-testing")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
