"""Database: its life, the connection that belongs to each task, and the query methods."""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from typing import TYPE_CHECKING, Any

from fastdb._speedups import QueryCache
from fastdb.compiler import Compiler
from fastdb.connection import Connection, end_in_time
from fastdb.coroutines import coroutine_function
from fastdb.drivers import load_driver
from fastdb.exceptions import NotConnectedError, NotSupportedError
from fastdb.lease import Holder
from fastdb.options import boolean, check_timeout, split_options
from fastdb.queries import (
    Queries,
    begin_query,
    check_batch_size,
    limited,
    note_failure,
    note_session,
    time_limit,
)
from fastdb.transaction import Transaction, current_task
from fastdb.url import DatabaseURL
from fastdb.url_secrets import concealed, hiding_frames

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine
    from types import TracebackType
    from typing import Protocol

    import sqlalchemy

    from fastdb._speedups import Record
    from fastdb.drivers.base import Driver
    from fastdb.options import Options
    from fastdb.pool import Pool
    from fastdb.queries import Finish, Query, Values
    from fastdb.sql_text import Lexical

    class Choice(Protocol):
        """What gives tasks another connection than their own: sandboxes of ``fastdb.testing``."""

        def connection(self) -> Connection | None:
            """Return the running task's connection; None where it is to have its own."""

        def is_sandboxed(self) -> bool:
            """Return whether the running task uses the connection of an open sandbox."""

        def stays_connected(self) -> bool:
            """Return whether ``disconnect()`` by the running task is to do nothing."""

        def pool(self) -> Pool | None:
            """Return the pool of the running task's sandbox, if it is another."""

        def disconnected(self) -> Coroutine[Any, Any, None]:
            """Close what lives as long as the database is connected."""


__all__ = ["Database"]

logger = logging.getLogger("fastdb")

#: Held while a pool becomes that of its Database: two threads may connect one at the same time.
_publishing = threading.Lock()


class ForceRollback:
    """The setting ``Database.force_rollback``: a truth value, and a block that turns it on."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        """Stand for the setting of `database`."""
        self._database = database

    def __bool__(self) -> bool:
        """Return the setting."""
        return self._database._force_rollback

    def __eq__(self, other: object) -> bool:
        """Compare as the truth value."""
        return bool(self) == other

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        """Show the setting."""
        return repr(bool(self))

    def __call__(self) -> ForceRollbackBlock:
        """Return a block in which ``connect()`` forces a rollback."""
        return ForceRollbackBlock(self._database)


class ForceRollbackBlock:
    """Turn ``force_rollback`` on for the connects of a ``with`` block."""

    __slots__ = ("_before", "_database")

    def __init__(self, database: Database) -> None:
        """Stand for a block of `database`."""
        self._database = database
        self._before = False

    def __enter__(self) -> None:
        """Turn the setting on."""
        self._before = self._database._force_rollback
        self._database._force_rollback = True

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Put the setting back."""
        self._database._force_rollback = self._before


class Database(Queries):
    """A database, its pool of connections and its cache of compiled queries.

    Connect it once per process and event loop; then run queries from any task::

        async with Database("postgresql://localhost/app") as database:
            await database.fetch_all("SELECT * FROM notes WHERE id > :id", {"id": 7})
    """

    @hiding_frames
    def __init__(
        self,
        url: str | DatabaseURL | sqlalchemy.URL,
        *,
        force_rollback: bool = False,
        **options: Any,
    ) -> None:
        """Describe a database; nothing is connected yet.

        Args:
            url: Such as ``postgresql://user:password@host:5432/name?min_size=2``.
            force_rollback: Let everything happen on one connection, in a transaction that
                ``disconnect()`` rolls back; for tests.
            options: Options of the pool and of the driver's ``connect``; they win over the URL's.

        Raises:
            InvalidURLError: The URL cannot be read.
            OptionError: The scheme or an option is unknown, or a value is none that it takes.
            DriverNotInstalledError: The driver's package is missing.
        """
        self.url = DatabaseURL(url)
        self.options = dict(options)
        self._force_rollback = boolean("force_rollback", force_rollback)
        self.settings, driver_options = split_options(
            concealed(self.url.options), concealed(options)
        )
        driver_class = load_driver(self.url.scheme)
        self._driver: Driver = driver_class(self.url, driver_options)
        self._query_level = logging.INFO if self.settings.echo else logging.DEBUG
        self._pool_options = self.settings
        if self._driver.single_connection:
            self._pool_options = single_connection_options(self.settings)
        self.query_cache = QueryCache(
            Compiler(
                self._driver.sqlalchemy_dialect, self._driver.lexical, self._driver.paramstyle
            ),
            self.settings.query_cache_size,
        )
        self._pool: Pool | None = None
        self._changing: asyncio.Lock | None = None
        self._changing_loop: asyncio.AbstractEventLoop | None = None
        self._connections: weakref.WeakKeyDictionary[asyncio.Task[Any], Connection] = (
            weakref.WeakKeyDictionary()
        )
        self._leases = 0
        self._global: Connection | None = None
        self._choice: Choice | None = None
        self._waiting: dict[asyncio.Task[Any], Transaction] = {}

    def __repr__(self) -> str:
        """Show the URL with its password masked."""
        return f"Database({self.url.obscure_password!r})"

    # -- life

    @property
    def is_connected(self) -> bool:
        """Whether the database is connected; a sandbox of ``fastdb.testing`` counts as one."""
        return self._pool is not None or (self._choice is not None and self._choice.is_sandboxed())

    @property
    def pool(self) -> Pool:
        """The pool of connections; ``pool.stats()`` gives its figures.

        Raises:
            NotConnectedError: The database is not connected.
        """
        pool = self._pool
        if pool is None and self._choice is not None:
            pool = self._choice.pool()
        if pool is None:
            raise not_connected()
        return pool

    @property
    def force_rollback(self) -> ForceRollback:
        """Whether ``connect()`` begins a transaction that ``disconnect()`` rolls back.

        Settable; ``with database.force_rollback():`` turns it on for a block.
        """
        return ForceRollback(self)

    @force_rollback.setter
    def force_rollback(self, value: bool) -> None:
        self._force_rollback = boolean("force_rollback", value)

    async def __aenter__(self) -> Database:
        """Connect."""
        await self.connect()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Disconnect."""
        await self.disconnect()

    async def connect(self) -> None:
        """Open the pool; do nothing where it is open.

        Raises:
            ConnectionFailedError: The server cannot be reached, or does not let us in.
            EventLoopError: The database is connected on another, running event loop.
        """
        if self._choice is not None and self._choice.is_sandboxed():
            logger.debug("not connected: the caller is in a sandbox")
            return
        await self._connect()

    async def _make_ready(self) -> None:
        """Do what must be done before the first connection is made."""

    async def _connect(self) -> None:
        await self._make_ready()
        async with self._change():
            loop = asyncio.get_running_loop()
            if self._pool is not None:
                if self._pool.inherited:
                    self._check_fork()
                elif self._pool.loop is loop:
                    return
                elif not self._pool.loop.is_closed():
                    self._pool.check_loop()
                # Its loop ended without disconnect(): nothing there can be closed in order.
                self._pool.abandon()
                self._forget_pool()
            from fastdb.pool import Pool, other_loop

            pool = Pool(self._driver.connect, self._pool_options)
            await pool.open()
            with _publishing:
                is_first = self._pool is None
                if is_first:
                    self._pool = pool
            if not is_first:
                try:
                    raise other_loop()
                finally:
                    await pool.close(0)
            if self._force_rollback:
                self._global = Connection(self)
                try:
                    await self._global._start_base()
                except BaseException:
                    self._forget_pool()
                    await pool.close(0)
                    raise
        logger.info("connected to %s", self.url.obscure_password)

    @coroutine_function
    def disconnect(self, timeout: float | None = 10.0) -> Coroutine[Any, Any, None]:
        """Close the pool; do nothing where it is closed.

        Args:
            timeout: Seconds that it takes at most: then connections that are in use are cut. The
                caller's own is cut at once.
        """
        seconds = check_timeout(timeout)
        if self._choice is not None and self._choice.stays_connected():
            return self._stay_connected()
        return self._disconnect(seconds, current_task())

    async def _stay_connected(self) -> None:
        logger.debug("not disconnected: a sandbox of the caller's is open")

    async def _disconnect(self, timeout: float | None, task: asyncio.Task[Any] | None) -> None:
        async with self._change():
            pool, connection = self._pool, self._global
            if pool is None:
                return
            loop = asyncio.get_running_loop()
            if pool.loop is not loop:
                if not pool.inherited and not pool.loop.is_closed():
                    pool.check_loop()
                pool.abandon()
                self._forget_pool()
                return
            own = self._connections.get(task) if task is not None else None
            since = loop.time()
            try:
                if connection is not None:
                    await end_in_time(connection, timeout)
            finally:
                self._forget_pool()
                left = None if timeout is None else max(since + timeout - loop.time(), 0)
                await pool.close(left, spare=own._lease.holder if own is not None else None)
                if self._choice is not None:
                    await self._choice.disconnected()
        logger.info("disconnected from %s", self.url.obscure_password)

    def _check_fork(self) -> None:
        """Refuse to connect in a forked process where that cannot be done."""
        if not self._driver.survives_forks:
            raise NotSupportedError(
                "SQLite cannot be opened in a process that was forked while the database was "
                "connected; disconnect before the fork, or start the process by spawn"
            )

    def _change(self) -> asyncio.Lock:
        """Return the lock of connect and disconnect on this event loop."""
        loop = asyncio.get_running_loop()
        if self._changing is None or self._changing_loop is not loop:
            self._changing, self._changing_loop = asyncio.Lock(), loop
        return self._changing

    def _forget_pool(self) -> None:
        self._pool = None
        self._global = None
        # The leases are still counted: whoever has one gives it back.
        self._connections.clear()

    def _choose_by(self, choice: Choice) -> None:
        """Ask `choice` first for a task's connection, from now on."""
        self._choice = choice
        # Queries look for their task's connection only where something is leased.
        self._note_lease(1)

    # -- what a Connection needs

    def _ready_pool(self) -> Pool:
        """Return the pool, after checking that it is open and on this event loop."""
        pool = self._pool
        if pool is None:
            raise not_connected()
        if pool.loop is not asyncio.get_running_loop():
            pool.check_loop()
        return pool

    def _note_lease(self, change: int) -> None:
        """Count the Connections that hold a lease."""
        self._leases += change

    def _lexical(self) -> Lexical:
        """Return the lexical rules of the server's SQL."""
        return self._driver.lexical()

    def _log_query(self, query: Query, values: object) -> None:
        """Write a query to the log."""
        if self.settings.log_values:
            logger.log(self._query_level, "%s %r", query, values)
        else:
            logger.log(self._query_level, "%s", query)

    # -- the task's connection

    def connection(self) -> Connection:
        """Return the connection of the running task.

        It is leased from the pool at the first use and returned at the outermost exit. Nested
        uses in one task are the same object.

        Raises:
            NotConnectedError: Called outside of any task.
        """
        if self._global is not None:
            return self._global
        if self._choice is not None and (chosen := self._choice.connection()) is not None:
            return chosen
        task = current_task()
        if task is None:
            raise NotConnectedError("a connection belongs to a task; no task is running here")
        connection = self._connections.get(task)
        if connection is None:
            connection = self._connections[task] = Connection(self)
        return connection

    def _held_connection(self) -> Connection | None:
        """Return the connection that the running task holds, if it does."""
        if self._global is not None:
            return self._global
        if not self._leases:
            return None
        if self._choice is not None and (chosen := self._choice.connection()) is not None:
            return chosen
        task = current_task()
        if task is None:
            return None
        connection = self._connections.get(task)
        return connection if connection is not None and connection.is_held else None

    def _task_connection(self) -> Connection:
        return self.connection()

    # -- queries

    def _perform(
        self,
        operation: str,
        query: Query,
        values: Any,
        timeout: float | None,
        finish: Finish | None = None,
    ) -> Coroutine[Any, Any, Any]:
        if self._leases or self._global is not None:
            connection = self._held_connection()
            if connection is not None:
                return connection._perform(operation, query, values, timeout, finish)
        seconds = self.settings.command_timeout if timeout is None else check_timeout(timeout)
        run = self._run(operation, query, values, finish)
        return run if seconds is None else limited(run, seconds)

    async def _run(self, operation: str, query: Query, values: Any, finish: Finish | None) -> Any:
        """Run one operation on a connection that is leased for it alone."""
        pool = self._pool
        if pool is None or pool.loop is not asyncio.get_running_loop():
            pool = self._ready_pool()  # raises
        connection = pool.take() or await pool.acquire()
        try:
            running, plan, given = begin_query(self, connection, operation, query, values)
            try:
                result = await running
            except BaseException as error:
                note_failure(connection, error)
                raise
            return result if finish is None else finish(plan, given, result, connection)
        finally:
            if not pool.put(connection):
                await pool.release(connection)

    def iterate(
        self,
        query: Query,
        values: Values | None = None,
        *,
        batch_size: int | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[Record, None]:
        """Yield the records one by one, in constant memory; other queries may run meanwhile.

        Inside a transaction it uses the transaction's connection. Outside one it leases a
        connection of its own (on SQLite: the task's), so that statements in the body are
        committed one by one.

        Args:
            query: SQL with ``:name`` parameters, or a SQLAlchemy expression.
            values: One value for each parameter.
            batch_size: Records that are fetched at once, 500 by default.
            timeout: Seconds that one fetch may take.
        """
        connection = self._held_connection()
        if not self._driver.streams_apart and connection is None and current_task() is not None:
            connection = self.connection()
        if connection is not None and (
            not self._driver.streams_apart
            or connection is self._global
            or connection._turns.stack  # also that of a sandbox
        ):
            return connection.iterate(query, values, batch_size=batch_size, timeout=timeout)
        size = check_batch_size(batch_size)
        seconds = time_limit(timeout, self.settings)
        return self._iterate_apart(query, values, size, seconds)

    async def _iterate_apart(
        self, query: Query, values: Values | None, size: int, seconds: float | None
    ) -> AsyncGenerator[Record, None]:
        """Iterate on a connection that is leased for it alone."""
        pool = self._ready_pool()
        connection = await pool.acquire()
        task = current_task()
        name = task.get_name() if task is not None else "no task"
        holder = connection.holder = Holder(f"{name}, iterate({query!s:.60})")
        if pool.loop.get_debug():
            holder.note_place()
        try:
            self._log_query(query, values)
            plan, args, _ = self.query_cache.prepare(query, values)
            note_session(connection, plan)
            cursor = await limited(connection.open_cursor(plan, args, hold=False), seconds)
            try:
                while records := await limited(cursor.fetch(size), seconds):
                    for record in records:
                        yield record
                    pool.check_loop()
            except BaseException as cause:
                if pool.loop is not asyncio.get_running_loop():
                    raise
                try:
                    async with asyncio.timeout(connection.patience(cause)):
                        await cursor.close()
                except Exception:  # what made it end early is the error to tell
                    connection.terminate()
                raise
            await cursor.close()
        except GeneratorExit:
            raise
        except BaseException:
            connection.suspect = True
            raise
        finally:
            if pool.loop is asyncio.get_running_loop():
                await pool.release(connection)
            else:
                pool.drop_unowned(connection)


def not_connected() -> NotConnectedError:
    """Return the error of use before ``connect()``, or after ``disconnect()``."""
    return NotConnectedError(
        "the database is not connected; call `await database.connect()` first, "
        "or use `async with database:`"
    )


def single_connection_options(options: Options) -> Options:
    """Return the options of a pool that keeps its one connection for as long as it is open."""
    return options._replace(
        min_size=1, max_size=1, max_lifetime=None, idle_timeout=None, max_queries=None
    )
