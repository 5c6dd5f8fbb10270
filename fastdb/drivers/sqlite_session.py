"""What runs on a worker's thread: one ``sqlite3`` connection and its transactions.

The statements are in :mod:`~fastdb.drivers.sqlite_statements`.

Waiting for locks is done here rather than in SQLite: its own busy handler cannot be interrupted,
and a cancelled statement that gets its lock in the end would still do its work. SQLite's
``busy_timeout`` is therefore 0 as long as only our statements run. It is handed back to SQLite as
soon as others' do (``raw_connection``), when a statement changes the session (PRAGMA, ATTACH), and
for the time of a deferred transaction, in which SQLite alone knows whether waiting can help.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
from functools import partial
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, Final

from fastdb.drivers.sqlite_errors import is_busy, translated
from fastdb.exceptions import (
    ConnectionFailedError,
    Error,
    OperationalError,
    OptionError,
)
from fastdb.exceptions_driver import from_driver

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastdb.drivers.sqlite_options import Settings
    from fastdb.drivers.sqlite_worker import Worker

__all__ = ["LOST", "Session"]

#: Seconds between two attempts to get a lock, as in SQLite's own busy handler.
_PAUSES: Final = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.025, 0.025, 0.025, 0.05, 0.05, 0.1)

LOST = (
    "the transaction is no longer open: SQLite has rolled it back, or it was ended on the raw"
    " connection; roll back and start again"
)


def _regexp(pattern: str, value: str | None) -> bool | None:
    """Answer SQL's ``value REGEXP pattern`` with Python's expressions, as SQLAlchemy does."""
    return None if value is None else re.search(pattern, value) is not None


def _already_open() -> OperationalError:
    return OperationalError("cannot begin; a transaction is open on this connection")


class Session:
    """One open connection. Every method but :attr:`in_transaction` runs on the thread.

    Attributes:
        due: The BEGIN that travels with the next statement. It may be set on the event loop.
        begun: Whether a transaction of ours was begun and not ended.
        savepoints: How many savepoints of ours are open.
        scope: What undoes an :meth:`execute_many` that is under way: the name of its savepoint, or
            "" for a transaction of its own; otherwise None.
    """

    def __init__(self, settings: Settings, worker: Worker) -> None:
        """Make a session that is not open."""
        self._settings = settings
        self._worker = worker
        self.due: str | None = None
        self.begun = False
        self.savepoints = 0
        self._cursors: set[sqlite3.Cursor] = set()
        self._foreign = False
        self._waits_here = False  # else SQLite does
        self._undo: list[Callable[[], Any]] = []  # what the end of a transaction has to restore
        self.scope: str | None = None
        #: Whether the last row id of the cursor is that of the connection.
        self._lastrowid_known = False

    @property
    def in_transaction(self) -> bool:
        """Whether SQLite is in a transaction, or begins one next; may be read on any thread."""
        return self.due is not None or self.connection.in_transaction

    # -- opening and closing

    def open(self, path: str) -> sqlite3.Connection:
        """Open the database at `path`; SQLite itself waits for locks until :meth:`adopt_waits`."""
        settings = self._settings
        try:
            connection: sqlite3.Connection = sqlite3.connect(
                path, isolation_level=None, **settings.connect
            )
        except (sqlite3.Error, ValueError) as error:
            raise self.failed(error) from error
        try:
            self.adopt(connection)
        except BaseException:
            self.close()  # with its cursors, or the file stays open behind it
            raise
        return connection

    def adopt(self, connection: sqlite3.Connection) -> None:
        """Make an open `connection` ready."""
        self.connection = connection
        self._worker.connection = connection
        self._cursor = self._new_cursor()
        self._aside = self._new_cursor()
        connection.create_function("regexp", 2, _regexp, deterministic=True)
        try:
            for name, value in self._settings.pragmas:
                self._set(name, value)
        except sqlite3.Error as error:
            raise self.failed(error) from error
        try:
            # Opening reads nothing; this finds a file that is no database.
            self._aside.execute("PRAGMA schema_version").fetchall()
        except sqlite3.Error as error:
            if not is_busy(error):
                raise self.failed(error) from error

    def failed(self, error: Exception) -> Error:
        """Return what ``connect()`` raises for `error`."""
        told = type(error)(f"cannot open the SQLite database {self._settings.name!r}: {error}")
        told.__dict__.update(error.__dict__)
        return from_driver(ConnectionFailedError, told)

    def _set(self, name: str, value: str) -> None:
        answer = self._aside.execute(f"PRAGMA {name} = {value}").fetchall()
        if name == "journal_mode" and answer and answer[0][0].lower() != value:
            raise OptionError(
                f"journal_mode {value!r} is not possible for {self._settings.name!r};"
                f" it stays {answer[0][0]!r}"
            )

    def copy_to(self, other: Session) -> None:
        """Copy the whole database into that of `other`, which is empty and idle."""
        try:
            ((size,),) = self._ask("PRAGMA page_size")
            other._ask(f"PRAGMA page_size = {size}")  # one in memory cannot change it later
            self.connection.backup(other.connection)
        except sqlite3.Error as error:
            raise translated(error) from error

    def adopt_waits(self) -> None:
        """Take jobs that ran until now, `init`'s, for no reason to let SQLite wait."""
        self._foreign = False
        self._worker.shared = bool(self._cursors)
        self._take_waits()

    def _take_waits(self) -> None:
        """Wait for locks here, for as long as SQLite was told to wait."""
        if self._foreign or self._waits_here or self._settings.memory:
            return
        if all(name in ("main", "temp") for _, name, _ in self._ask("PRAGMA database_list")):
            self._busy_timeout = int(self._ask("PRAGMA busy_timeout")[0][0])
            self._ask("PRAGMA busy_timeout = 0")
            self._waits_here = True

    def return_waits(self) -> None:
        """Let SQLite wait for locks from now on."""
        if self._waits_here:
            self._waits_here = False
            self._ask(f"PRAGMA busy_timeout = {self._busy_timeout}")

    def note_foreign_job(self) -> None:
        """Prepare for statements that are not ours."""
        self._foreign = True
        self._lastrowid_known = False
        self.return_waits()

    def close(self) -> None:
        """Close the cursors and the connection; an open transaction is rolled back."""
        if self._worker.connection is None:
            return
        self._close_cursors((*self._cursors, self._cursor, self._aside))
        self.connection.close()

    def clean(self) -> None:
        """Close the cursors and roll back."""
        self._close_cursors(tuple(self._cursors))
        self.rollback()

    def check(self) -> None:
        """Run a query that needs nothing."""
        self._ask("SELECT 1")

    def _ask(self, sql: str) -> list[Any]:
        # Newer versions of SQLite read the schema, which needs a lock, for any statement.
        try:
            return self._read_aside(sql)
        except sqlite3.Error as error:
            if not self._may_wait(error):
                raise translated(error) from error
            failure = error
        answer: list[Any] = self._retry(failure, self._read_aside, sql)
        return answer

    def _read_aside(self, sql: str) -> list[Any]:
        # Every row is read: a statement left open would keep an interruption alive.
        return self._aside.execute(sql).fetchall()

    # -- waiting and small things

    def _may_wait(self, error: sqlite3.Error) -> bool:
        return self._waits_here and not self.connection.in_transaction and is_busy(error)

    def _retry(self, failure: sqlite3.Error, function: Callable[..., Any], *args: Any) -> Any:
        """Call `function` again until it gets its lock, the time is over, or nobody waits."""
        deadline = time.monotonic() + self._busy_timeout / 1000
        for pause in chain(_PAUSES, repeat(_PAUSES[-1])):
            left = deadline - time.monotonic()
            if left <= 0 or self._worker.pause(min(pause, left)):
                raise translated(failure) from failure
            try:
                return function(*args)
            except sqlite3.Error as error:
                if not is_busy(error):
                    raise translated(error) from error
                failure = error
        raise AssertionError("unreachable")  # pragma: no cover: repeat() has no end

    def _command(self, sql: str) -> None:
        """Run a statement about transactions; it may wait for a lock inside one, too."""
        try:
            self._aside.execute(sql)
        except sqlite3.Error as error:
            if not self._waits_here or not is_busy(error):
                raise translated(error) from error
            failure = error
        else:
            return
        self._retry(failure, self._aside.execute, sql)

    def _new_cursor(self) -> sqlite3.Cursor:
        cursor = self.connection.cursor()
        cursor.row_factory = None  # the users' is for their own cursors
        return cursor

    def _close_cursors(self, cursors: tuple[sqlite3.Cursor, ...]) -> None:
        self._cursors.difference_update(cursors)
        self._worker.shared = self._foreign or bool(self._cursors)
        for cursor in cursors:
            with contextlib.suppress(sqlite3.Error):
                cursor.close()

    # -- transactions

    def begin_later(self) -> None:
        """Begin IMMEDIATE with the next statement; called on the event loop.

        Raises:
            OperationalError: A transaction is open.
        """
        if self.in_transaction:
            raise _already_open()
        self.savepoints = 0
        self.due = "BEGIN IMMEDIATE"

    def begin_due(self) -> None:
        """Begin what is due. Where that fails, it stays due: the next statement tries again."""
        if self.due is not None:
            self._command(self.due)
            self.begun = True
            self.due = None

    def forget_begin(self) -> bool:
        """End a transaction without any statement; return whether it was one.

        On the event loop only where no job of others can come before what is called for next.
        """
        due, self.due = self.due, None
        return due is not None

    def begin(self, mode: str, pragmas: tuple[str, ...]) -> None:
        """Begin a transaction; `pragmas` are switched on for its time."""
        if self.in_transaction:
            raise _already_open()
        self.savepoints = 0
        self._undo = [self._take_waits] if mode == "DEFERRED" and self._waits_here else []
        try:
            if self._undo:
                self.return_waits()
            self._command(f"BEGIN {mode}")
            self.begun = True
            for pragma in pragmas:
                before = self._ask(f"PRAGMA {pragma}")[0][0]
                self._undo.append(partial(self._ask, f"PRAGMA {pragma} = {before}"))
                self._ask(f"PRAGMA {pragma} = 1")
        except BaseException:
            self._worker.seal()
            self.rollback()
            raise

    def commit(self) -> None:
        """Commit, or raise where there is nothing left to commit."""
        if self.forget_begin():
            return
        if not self.connection.in_transaction:
            self._end()
            raise OperationalError(f"cannot commit; {LOST}")
        self._command("COMMIT")
        self._end()

    def rollback(self) -> None:
        """Roll back what is open."""
        self.due = None
        if self.connection.in_transaction:
            self._command("ROLLBACK")
        self._end()

    def _end(self) -> None:
        self.begun = False
        self.savepoints = 0
        self.scope = None
        undo, self._undo = self._undo, []
        for step in undo:
            step()

    def savepoint(self) -> None:
        """Open a savepoint inside the innermost one."""
        self._require_transaction("open a savepoint")
        self._command(f"SAVEPOINT fastdb_{self.savepoints + 1}")
        self.savepoints += 1

    def release_savepoint(self) -> None:
        """Keep what happened since the innermost savepoint."""
        self._require_transaction("release a savepoint")
        self._command(f"RELEASE fastdb_{self.savepoints}")
        self.savepoints -= 1

    def rollback_to_savepoint(self) -> None:
        """Undo what happened since the innermost savepoint, and end it."""
        if self.connection.in_transaction and self.savepoints:
            self._command(f"ROLLBACK TO fastdb_{self.savepoints}")
            self._command(f"RELEASE fastdb_{self.savepoints}")
        self.savepoints = max(self.savepoints - 1, 0)

    def _require_transaction(self, action: str) -> None:
        self.begin_due()
        if not self.connection.in_transaction:
            raise OperationalError(f"cannot {action}; {LOST}")

    # -- the transaction or savepoint around several batches

    def _open_scope(self) -> None:
        if self.connection.in_transaction:
            self._command("SAVEPOINT fastdb_many")
            self.scope = "fastdb_many"
        else:
            self._command("BEGIN IMMEDIATE")
            self.scope = ""

    def _close_scope(self) -> None:
        if not self.connection.in_transaction:
            raise OperationalError(LOST)
        self._command(f"RELEASE {self.scope}" if self.scope else "COMMIT")
        self.scope = None

    def drop_scope(self) -> None:
        """Undo the batches that were run."""
        scope, self.scope = self.scope, None
        if scope is None or not self.connection.in_transaction:
            return
        if scope:
            self._command(f"ROLLBACK TO {scope}")
            self._command(f"RELEASE {scope}")
        else:
            self._command("ROLLBACK")
