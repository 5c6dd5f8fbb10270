"""The statements that run on a worker's thread, from SQL to records."""

from __future__ import annotations

import re
import sqlite3
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from fastdb.drivers.base import Outcome
from fastdb.drivers.sqlite_errors import translated
from fastdb.drivers.sqlite_session import LOST, Session
from fastdb.exceptions import Error, OperationalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastdb._speedups import QueryPlan, Record, RecordLayout
    from fastdb.drivers.base import Args

__all__ = ["StatementSession", "Stream"]

#: Rows that are inserted between two looks at whether the job is cancelled.
_MANY_ROWS: Final = 500

_CHANGES: Final = ("insert", "update", "delete")
# `re` compiles these when they are first needed, and keeps them.
_UPSERT: Final = r"(?is)\bon\s+conflict\b.*\bdo\s+update\b"
_TARGET: Final = (
    r"(?i)"
    r"\binto\s+((?:\"[^\"]+\"|\[[^]]+\]|`[^`]+`|\w+)(?:\s*\.\s*(?:\"[^\"]+\"|\[[^]]+\]|`[^`]+`|\w+))?)"
)

_name = itemgetter(0)
_all = sqlite3.Cursor.fetchall
_first = sqlite3.Cursor.fetchone


def _none(cursor: sqlite3.Cursor) -> None:
    """Leave the rows to be read later."""


class Stream:
    """A result that is read in pieces: from a cursor, or rows that are here already."""

    __slots__ = ("cursor", "is_finished", "layout", "rows")

    def __init__(self) -> None:
        """Make a stream that nothing is in yet."""
        self.is_finished = False
        self.cursor: sqlite3.Cursor | None = None
        self.layout: RecordLayout | None = None
        self.rows: Iterator[Any] = iter(())


class StatementSession(Session):
    """A session that runs queries. Every method runs on the thread."""

    # -- queries

    def fetch_all(self, plan: QueryPlan, args: Args) -> list[Record]:
        """Run a query and return every record."""
        rows = self._rows(plan, args)
        return self._layout(plan).records(rows) if rows else []

    def fetch_one(self, plan: QueryPlan, args: Args) -> Record | None:
        """Run a query and return the first record."""
        if plan.kind != "select":
            rows = self._rows(plan, args)  # all: with RETURNING, the last one commits
            return self._layout(plan).record(rows[0]) if rows else None
        row = self._rows(plan, args, _first)
        if row is None:
            return None
        try:
            return self._layout(plan).record(row)
        finally:
            self._discard_rows()

    def execute(self, plan: QueryPlan, args: Args) -> Outcome:
        """Run a statement and return all that it gave."""
        if plan.kind not in _CHANGES:
            rows = self._rows(plan, args)
            return Outcome(self._layout(plan).records(rows) if rows else [], -1, None)
        # sqlite3 gives the last row id of the connection, whichever statement made it.
        before = self._cursor.lastrowid
        if not self._lastrowid_known:
            before = self._ask("SELECT last_insert_rowid()")[0][0]
            self._lastrowid_known = True
        rows = self._rows(plan, args)
        lastrowid = self._cursor.lastrowid
        if self._cursor.description is not None:
            rowcount = len(rows)
        else:
            rowcount = self._cursor.rowcount
            if rowcount < 0:  # sqlite3 does not know WITH … UPDATE for what it is
                rowcount = self._ask("SELECT changes()")[0][0]
        if plan.kind != "insert" or rowcount < 1 or not self._has_inserted(plan, before, lastrowid):
            lastrowid = None
        return Outcome(self._layout(plan).records(rows) if rows else [], rowcount, lastrowid)

    def _has_inserted(self, plan: QueryPlan, before: int | None, after: int | None) -> bool:
        """Return whether `after` is the row id of an insert that changed something."""
        if before != after:
            return True
        # The same id as an earlier insert's, perhaps into another table; or none was given.
        if re.search(_UPSERT, plan.sql):
            return False
        target = re.search(_TARGET, plan.sql)
        try:
            if target is not None:
                self._ask(f"SELECT rowid FROM {target[1]} LIMIT 0")
        except Error:  # a table WITHOUT ROWID
            return False
        return True

    def _layout(self, plan: QueryPlan) -> RecordLayout:
        layout: RecordLayout = plan.layout(tuple(map(_name, self._cursor.description)))
        return layout

    def _rows(
        self, plan: QueryPlan, args: Args, fetch: Callable[[sqlite3.Cursor], Any] = _all
    ) -> Any:
        """Run a query and return what `fetch` takes of its result."""
        self._require_open()
        if plan.changes_session:
            self.return_waits()
        try:
            return self._attempt(plan.sql, args, fetch)
        except sqlite3.OperationalError as error:
            self._lastrowid_known = False
            if not self._may_wait(error):
                raise translated(error) from error
            failure = error
        except (sqlite3.Error, sqlite3.Warning) as error:
            self._lastrowid_known = False
            raise translated(error) from error
        return self._retry(failure, self._attempt, plan.sql, args, fetch)

    def _require_open(self) -> None:
        """Begin a transaction that is due, or raise where one was lost."""
        if self.due is not None:
            self.begin_due()
        elif self.begun and not self.connection.in_transaction:
            raise OperationalError(LOST)

    def _attempt(self, sql: str, args: Args, fetch: Callable[[sqlite3.Cursor], Any]) -> Any:
        cursor = self._cursor
        try:
            cursor.execute(sql, args)
        except (OverflowError, UnicodeEncodeError) as error:
            raise translated(error) from error
        return fetch(cursor)

    def _discard_rows(self) -> None:
        """Reset the statement where it has further rows, so that it holds no lock."""
        try:
            if self._cursor.fetchone() is None:
                return
        except Exception:  # also of a converter of the user's: nobody asked for that row
            pass
        self._cursor.close()
        self._cursor = self._new_cursor()
        self._lastrowid_known = False

    # -- many

    def execute_many(self, plan: QueryPlan, rows: list[Args], *, first: bool, last: bool) -> None:
        """Run one batch of several that are all or nothing."""
        self._require_open()
        if plan.changes_session:
            self.return_waits()
        if first:
            self._open_scope()
        try:
            try:
                self._run_many(plan, rows)
            except (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeEncodeError) as error:
                raise translated(error) from error
            if last:
                self._close_scope()
        except BaseException:
            self._worker.seal()
            self.drop_scope()
            raise

    def _run_many(self, plan: QueryPlan, rows: list[Args]) -> None:
        self._lastrowid_known = False
        # sqlite3 refuses what it does not recognise by its first word as a change.
        simple = plan.sql[:24].lstrip().upper().startswith(plan.verb)
        if plan.kind in _CHANGES and simple and not plan.returns_rows:
            # An interruption hits a statement, and these are over in a moment: look in between.
            for start in range(0, len(rows), _MANY_ROWS):
                self._require_interest()
                self._cursor.executemany(plan.sql, rows[start : start + _MANY_ROWS])
            return
        for row in rows:
            self._require_interest()
            self._cursor.execute(plan.sql, row).fetchall()

    def _require_interest(self) -> None:
        if self._worker.is_cancelled():
            raise OperationalError("interrupted")

    # -- cursors

    def open_cursor(self, stream: Stream, plan: QueryPlan, args: Args) -> None:
        """Start a query that is read in pieces from `stream`."""
        if plan.kind != "select":
            # SQLite has made all its changes and all its rows by the first of them, and would
            # let nothing be committed before the last is read.
            rows = self._rows(plan, args)
            stream.layout, stream.rows = self._layout(plan) if rows else None, iter(rows)
            return
        own, self._cursor = self._cursor, self._new_cursor()
        cursor = self._cursor
        try:
            self._rows(plan, args, _none)
            stream.layout = self._layout(plan) if cursor.description else None
        except BaseException:
            cursor.close()
            raise
        finally:
            self._cursor = own
            self._lastrowid_known = False
        stream.cursor = cursor
        self._cursors.add(cursor)
        self._worker.shared = True

    def fetch(self, stream: Stream, size: int) -> list[Record]:
        """Return up to `size` further records; behind the last one the cursor is closed."""
        if stream.is_finished:  # pragma: no cover: closed while this waited, which is a race
            raise OperationalError("the cursor is closed")
        if stream.cursor is None:
            rows = list(islice(stream.rows, size))
        elif stream.cursor not in self._cursors:  # clean() has closed it
            raise OperationalError("the cursor is closed: the connection was reset")
        else:
            try:
                rows = stream.cursor.fetchmany(size)
            except (sqlite3.Error, sqlite3.Warning) as error:
                self.close_cursor(stream)
                raise translated(error) from error
        if len(rows) < size:
            self.close_cursor(stream)
        return [] if stream.layout is None else stream.layout.records(rows)

    def close_cursor(self, stream: Stream) -> None:
        """Reset the statement, so that it holds no lock; what was not read is gone."""
        cursor, stream.cursor, stream.rows = stream.cursor, None, iter(())
        stream.is_finished = True
        if cursor is not None:
            self._close_cursors((cursor,))
