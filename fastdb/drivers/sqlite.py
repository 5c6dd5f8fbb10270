"""SQLite, through aiosqlite.

Each operation is one job on the connection's own thread (:mod:`~fastdb.drivers.sqlite_worker`);
what such a job does is in :mod:`~fastdb.drivers.sqlite_session`.

The options, beside the pool's:

==================  =====================================================================
timeout             seconds to wait for a lock (5)
busy_timeout        the same in milliseconds, as SQLite's PRAGMA has it
foreign_keys        whether foreign keys are enforced (SQLite's default: they are not)
journal_mode        ``wal``, ``delete`` … (as the file has it); ``wal=True`` is the short form
synchronous         ``off``, ``normal``, ``full``, ``extra`` (SQLite's default: full)
init                async callable, awaited with each new ``aiosqlite.Connection``
uri                 whether the path may be a ``file:`` URI (where it begins so)
mode, cache, …      parameters of SQLite's URI; any of them makes a URI of the path
cached_statements, detect_types, factory, check_same_thread    as of ``sqlite3.connect``
iter_chunk_size     rows that cursors of the raw connection fetch at once (64)
isolation_level     only None: fastdb begins and ends transactions itself
==================  =====================================================================

A database in memory lives on one connection, for as long as that is open.
"""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from fastdb.drivers import sqlite_worker
from fastdb.drivers.base import DEFAULT_OPTIONS, Driver, DriverConnection, DriverCursor, Outcome
from fastdb.drivers.sqlite_mailbox import Mailbox
from fastdb.drivers.sqlite_options import OPTION_NAMES, read_options
from fastdb.drivers.sqlite_statements import StatementSession, Stream
from fastdb.drivers.sqlite_worker import RawConnection, Worker
from fastdb.exceptions import NotSupportedError, OptionError
from fastdb.sql_text import Lexical

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from sqlalchemy.engine import Dialect

    from fastdb._speedups import QueryPlan, Record
    from fastdb.drivers.base import Args, Batch, TransactionOptions
    from fastdb.url import DatabaseURL

__all__ = ["SQLiteConnection", "SQLiteDriver"]

_BEGINS = ("deferred", "immediate", "exclusive")


class SQLiteDriver(Driver):
    """Open connections to one SQLite database, a file or in memory."""

    dialect: ClassVar[str] = "sqlite"
    package: ClassVar[str] = "aiosqlite"
    paramstyle: ClassVar[str] = "qmark"
    streams_apart: ClassVar[bool] = False
    # The library takes the parent's locks for its own, and its threads may have held mutexes.
    survives_forks: ClassVar[bool] = False

    def __init__(self, url: DatabaseURL, options: Mapping[str, Any]) -> None:
        """Check the options; the file is not touched."""
        self.settings = read_options(url.database, options)
        self.single_connection = self.settings.memory
        self.directory = ""
        self._mailbox: weakref.ref[Mailbox] | None = None

    @classmethod
    def option_names(cls) -> frozenset[str]:
        """Return the names of the options that the driver takes."""
        return OPTION_NAMES

    def lexical(self) -> Lexical:
        """Return SQLite's lexical rules."""
        return Lexical("sqlite")

    def sqlalchemy_dialect(self) -> Dialect:
        """Return SQLAlchemy's dialect for ``sqlite3``."""
        from fastdb.compiler import sqlite_dialect

        # Where sqlite3 makes dates itself, SQLAlchemy must not try to read them as text.
        native = bool(self.settings.connect["detect_types"] & sqlite3.PARSE_DECLTYPES)
        dialect: Dialect = sqlite_dialect()(
            paramstyle="qmark", dbapi=sqlite3, native_datetime=native
        )
        return dialect

    async def connect(self) -> SQLiteConnection:
        """Open a connection with a thread of its own."""
        connection = SQLiteConnection(self)
        await connection.open()
        return connection

    def mailbox(self) -> Mailbox:
        """Return the mailbox of the running loop, one for all connections."""
        loop = asyncio.get_running_loop()
        mailbox = None if self._mailbox is None else self._mailbox()
        if mailbox is None or mailbox.loop is not loop or not mailbox.members:
            # The first connection: a relative path means the directory of this moment, for all.
            self.directory = os.getcwd() if self.settings.is_relative else ""
            mailbox = Mailbox(loop, by_descriptor=sqlite_worker.KNOWN_LAYOUT)
            self._mailbox = weakref.ref(mailbox)
        return mailbox


class SQLiteCursor(DriverCursor):
    """A result that is read piece by piece on the connection's thread."""

    __slots__ = ("_session", "_stream", "_worker")

    def __init__(self, worker: Worker, session: StatementSession, stream: Stream) -> None:
        self._worker = worker
        self._session = session
        self._stream = stream

    async def fetch(self, size: int) -> list[Record]:
        """Return up to `size` further records."""
        if self._stream.is_finished:
            return []
        records: list[Record] = await self._worker.run(self._session.fetch, self._stream, size)
        return records

    async def close(self) -> None:
        """Close the cursor, where the last record has not already done so."""
        if self._stream.cursor is not None and not self._worker.closed:
            await self._worker.run_to_end(self._session.close_cursor, self._stream)


class SQLiteConnection(DriverConnection):
    """One connection to SQLite."""

    remote = False

    __slots__ = ("_driver", "_session", "_worker")

    _worker: Worker
    _session: StatementSession

    def __init__(self, driver: SQLiteDriver) -> None:
        """Make a connection that is not open."""
        super().__init__(None)
        self._driver = driver

    async def open(self) -> None:
        """Open the database, and run `init`."""
        driver = self._driver
        mailbox = driver.mailbox()
        worker = self._worker = Worker(mailbox, persistent=driver.settings.memory)
        session = self._session = StatementSession(driver.settings, worker)
        worker.on_close = session.close
        try:
            if sqlite_worker.KNOWN_LAYOUT:
                worker.on_foreign_job = session.note_foreign_job
                worker.begin_due = session.begin_due
                worker.start()
                await worker.run(session.open, driver.settings.address(driver.directory))
                self.raw = RawConnection(worker, session, driver.settings.chunk_size)
            else:
                await self._open_unknown(session)
            if driver.settings.init is not None:
                await driver.settings.init(self.raw)
            if sqlite_worker.KNOWN_LAYOUT and not driver.settings.memory:
                await worker.run(session.adopt_waits)
                worker.queue.has_foreign = False  # what `init` posted is done
        except BaseException:
            await worker.stop()
            raise

    async def _open_unknown(self, session: StatementSession) -> None:
        """Let an aiosqlite that is built in an unknown way open the database on its thread."""
        settings = self._driver.settings
        opening = sqlite_worker.open_unknown(
            settings.address(self._driver.directory),
            iter_chunk_size=settings.chunk_size,
            isolation_level=None,
            **settings.connect,
        )
        try:
            raw = await opening
        except (sqlite3.Error, ValueError) as error:
            raise session.failed(error) from error
        self.raw = raw
        self._worker.adopt(raw)
        session.note_foreign_job()  # they will not be seen
        await self._worker.run(session.adopt, raw._conn)

    # -- queries

    def fetch_all(self, plan: QueryPlan, args: Args) -> Awaitable[list[Record]]:
        """Return every row."""
        return self._worker.run(self._session.fetch_all, plan, args)

    def fetch_one(self, plan: QueryPlan, args: Args) -> Awaitable[Record | None]:
        """Return the first row, or None."""
        return self._worker.run(self._session.fetch_one, plan, args)

    def execute(self, plan: QueryPlan, args: Args) -> Awaitable[Outcome]:
        """Run one statement."""
        return self._worker.run(self._session.execute, plan, args)

    async def execute_many(self, batches: Iterator[Batch]) -> None:
        """Run every batch, all or nothing; a single one is a single job."""
        worker, session = self._worker, self._session
        first = True
        try:
            batch = next(batches, None)
            while batch is not None:
                following = next(batches, None)
                last = following is None
                await worker.run(partial(session.execute_many, *batch, first=first, last=last))
                batch, first = following, False
        except BaseException:
            if session.scope is not None and not worker.closed:
                await self._surely(session.drop_scope)
            raise

    async def open_cursor(self, plan: QueryPlan, args: Args, *, hold: bool) -> SQLiteCursor:
        """Start a result; SQLite's live outside transactions just as well."""
        stream = Stream()
        try:
            await self._worker.run(self._session.open_cursor, stream, plan, args)
        except BaseException:
            if stream.cursor is not None and not self._worker.closed:
                await self._surely(partial(self._session.close_cursor, stream))
            raise
        return SQLiteCursor(self._worker, self._session, stream)

    async def _surely(self, function: Callable[[], None]) -> None:
        """Clean up, or end the connection: nothing of a half-done operation may stay."""
        try:
            await self._worker.run_to_end(function)
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):
                self.terminate()
            raise

    @property
    def irreplaceable(self) -> bool:  # type: ignore[override]
        """Whether the database is in memory, and ends with the connection."""
        return self._driver.settings.memory

    # -- transactions

    @property
    def in_transaction(self) -> bool:
        """Whether SQLite is in a transaction: False once it has rolled one back itself."""
        try:
            return not self._worker.closed and self._session.in_transaction
        except sqlite3.ProgrammingError:  # closed by way of the raw connection
            return False

    @property
    def _is_ours(self) -> bool:
        """Whether the connection is open, and none but our jobs can be on its thread."""
        worker = self._worker
        return sqlite_worker.KNOWN_LAYOUT and not worker.closed and not worker.queue.has_foreign

    async def begin(self, options: TransactionOptions) -> None:
        """Begin IMMEDIATE, unless the transaction is read-only or `begin` says otherwise.

        Where the options ask for nothing, BEGIN travels with the first statement: a thread that is
        woken costs more than SQLite's own work. It is that statement then that waits for the lock.

        Raises:
            NotSupportedError: Of the isolation levels, SQLite has SERIALIZABLE, and READ
                UNCOMMITTED with a shared cache; nothing is deferrable.
        """
        session = self._session
        if options == DEFAULT_OPTIONS and self._is_ours:
            session.begin_later()
            return
        mode, pragmas = self._transaction_mode(options)
        try:
            await self._worker.run(session.begin, mode, pragmas)
        except asyncio.CancelledError:
            if session.begun and not self._worker.closed:
                await self._surely(session.rollback)
            raise

    def _transaction_mode(self, options: TransactionOptions) -> tuple[str, tuple[str, ...]]:
        begin = options.begin
        if begin is not None and (not isinstance(begin, str) or begin.lower() not in _BEGINS):
            raise OptionError(f"begin is {begin!r}; SQLite takes {', '.join(map(repr, _BEGINS))}")
        if options.deferrable:
            raise NotSupportedError("SQLite has no deferrable transactions")
        pragmas = []
        if options.isolation is not None:
            level = re.sub(r"[\s_-]+", " ", str(options.isolation)).strip().upper()
            if level == "READ UNCOMMITTED" and self._driver.settings.shared_cache:
                pragmas.append("read_uncommitted")
            elif level != "SERIALIZABLE":
                raise NotSupportedError(
                    f"SQLite has no isolation level {options.isolation!r} here; it takes"
                    " 'SERIALIZABLE', and 'READ UNCOMMITTED' with a shared cache"
                )
        if options.readonly:
            pragmas.append("query_only")
        mode = begin or ("deferred" if options.readonly else "immediate")
        return mode.upper(), tuple(pragmas)

    async def commit(self) -> None:
        """Commit, or raise where SQLite has rolled back; cancelled, it has happened or not."""
        if not (self._is_ours and self._session.forget_begin()):
            await self._worker.run(self._session.commit)

    async def rollback(self) -> None:
        """Roll back; not cancellable, and nothing to do where no transaction is open."""
        if self._is_ours and self._session.forget_begin():
            return
        if not self._worker.closed and (self._session.begun or self.in_transaction):
            await self._surely(self._session.rollback)

    async def savepoint(self) -> None:
        """Open a savepoint inside the innermost one."""
        session = self._session
        before = session.savepoints
        try:
            await self._worker.run(session.savepoint)
        except asyncio.CancelledError:
            if session.savepoints > before and not self._worker.closed:
                await self._surely(session.rollback_to_savepoint)
            raise

    async def release_savepoint(self) -> None:
        """Keep what happened since the innermost savepoint; not cancellable."""
        await self._worker.run_to_end(self._session.release_savepoint)

    async def rollback_to_savepoint(self) -> None:
        """Undo what happened since the innermost savepoint, and end it; not cancellable."""
        if not self._worker.closed:  # else SQLite has undone it all
            await self._worker.run_to_end(self._session.rollback_to_savepoint)

    async def copy_to(self, other: SQLiteConnection) -> None:
        """Copy the whole database into that of `other`, which is empty and not in use."""
        await self._worker.run_to_end(self._session.copy_to, other._session)

    # -- the connection's life

    def abandon_raw(self) -> None:
        """Leave it to be rolled back: its thread ends the job that nobody waits for."""

    def is_alive(self, *, look: bool = True) -> bool:
        """Return whether the connection is open; a file cannot hang up."""
        return self._worker.is_alive()

    def is_still_alive(self) -> bool:
        """Return :meth:`is_alive`; there is nothing to look at."""
        return self._worker.is_alive()

    def is_idle(self) -> bool:
        """Return whether the connection is open, and in no transaction."""
        return self._worker.is_alive() and not self.in_transaction

    async def check(self) -> None:
        """Run a query that needs nothing."""
        await self._worker.run(self._session.check)

    async def reset(self) -> None:
        """Open the file anew, with a fresh `raw`; a database in memory is only rolled back."""
        if self._driver.settings.memory:
            await self._surely(self._session.clean)
        else:
            await self._worker.stop()
            await self.open()
        self.dirty = False

    async def close(self) -> None:
        """Close after all that was posted; an open transaction is rolled back."""
        await self._worker.stop()

    def terminate(self) -> None:
        """Interrupt what runs and close."""
        self._worker.terminate()
