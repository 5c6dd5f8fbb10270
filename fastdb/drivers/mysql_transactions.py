"""Transactions and savepoints of MySQL and MariaDB, and what ends one behind their back."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fastdb.drivers.base import TransactionOptions
from fastdb.drivers.mysql_errors import number_of
from fastdb.drivers.mysql_exchange import MySQLExchange
from fastdb.exceptions import (
    DatabaseError,
    Error,
    NotSupportedError,
    OperationalError,
    OptionError,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from fastdb._speedups import QueryPlan
    from fastdb.drivers.mysql_base import MySQLBaseDriver

__all__ = ["MySQLTransactions"]

_MAY_SET_CHARSET = re.compile("NAM|CHAR", re.IGNORECASE)

_ISOLATION = {"READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"}


class MySQLTransactions(MySQLExchange):
    """A connection that knows which transaction it is in."""

    __slots__ = ("_begun", "_committed_implicitly", "_lost", "_rolled_back", "_savepoints")

    def __init__(self, driver: MySQLBaseDriver, raw: Any) -> None:
        super().__init__(driver, raw)
        self._savepoints: list[str] = []
        # Whether begin() opened a transaction that nobody has ended through this class.
        self._begun = False
        # What ended it meanwhile, and whether that undid it rather than committed it.
        self._lost = ""
        self._committed_implicitly = False
        self._rolled_back = False

    # -- statements in a transaction

    def _query(
        self, plan: QueryPlan, sql: bytes, limit: int | None = None
    ) -> Coroutine[Any, Any, Any]:
        """Run a statement that may stand in a transaction, and may end it."""
        if plan.changes_session and plan.verb == "SET" and _MAY_SET_CHARSET.search(plan.sql):
            run = self._set_charset(sql, plan)
        else:
            run = self._run(sql, plan, limit)
        return self._noting_end(plan, run) if self._begun else run

    async def _set_charset(self, sql: bytes, plan: QueryPlan) -> Any:
        """Run a statement that may change the charset in which the server reads all that follow."""
        result = await self._run(sql, plan)
        await self._follow_charset()
        return result

    async def _follow_charset(self) -> None:
        """Write what follows in the charset in which the server now reads.

        Raises:
            NotSupportedError: It cannot be used; the session has its first one again.
        """
        raw = self.raw
        name = (await self._run(b"SELECT @@character_set_client")).rows[0][0]
        name = name.decode() if isinstance(name, bytes) else name
        try:
            raw._encoding = self._driver.encoding_of(name)
        except OptionError as error:
            await self._run(self._set_names())
            raise NotSupportedError(str(error)) from None
        raw._charset = name

    def _set_names(self) -> bytes:
        """Return the SET that brings the session's first charset back."""
        facts = self.facts
        assert facts is not None
        return f"SET NAMES {facts.charset} COLLATE {facts.collation}".encode()

    async def _noting_end(self, plan: QueryPlan, run: Coroutine[Any, Any, Any]) -> Any:
        """Await `run`, and note whether the transaction has ended with it.

        Raises:
            OperationalError: The server has rolled it back already; the statement is not run.
        """
        if self._rolled_back:
            run.close()
            raise OperationalError(
                f"cannot run a statement; the transaction was {self._lost}: roll it back first"
            )
        try:
            result = await run
        except Error as error:
            if self._begun and self.is_open and not self.in_transaction:
                self._transaction_ended(plan, error)
            raise
        if self._begun and not self.in_transaction:
            self._transaction_ended(plan, None)
        return result

    # -- their beginnings and ends

    async def begin(self, options: TransactionOptions) -> None:
        """Begin the outermost transaction.

        Raises:
            NotSupportedError: This database cannot honour one of `options`.
        """
        if options.deferrable:
            raise NotSupportedError("MySQL has no deferrable transactions")
        if options.begin is not None:
            raise NotSupportedError("begin= is SQLite's; MySQL has one kind of BEGIN")
        sql = b"START TRANSACTION"
        if options.readonly is not None:
            sql += b" READ ONLY" if options.readonly else b" READ WRITE"
        if options.isolation is not None:
            level = re.sub(r"[\s_-]+", " ", str(options.isolation)).strip().upper()
            if level not in _ISOLATION:
                raise NotSupportedError(
                    f"MySQL has no isolation level {options.isolation!r}; it has"
                    f" {', '.join(sorted(_ISOLATION))}"
                )
            # For the next transaction only, which is the one that begins below.
            await self._run(b"SET TRANSACTION ISOLATION LEVEL " + level.encode())
        try:
            await self._run(sql)
        except BaseException:
            self.dirty = self.dirty or options.isolation is not None
            raise
        self._end_transaction()
        self._begun = True

    async def commit(self) -> None:
        """Commit the outermost transaction.

        One that DDL has committed is committed already, what followed one by one: programs that
        make a table inside a transaction go on as they did.

        Raises:
            OperationalError: The server, or SQL of the user's, has ended it.
        """
        if self._begun and not self.in_transaction:
            lost, implicitly = self._lost, self._committed_implicitly
            self._end_transaction()
            if implicitly and self.is_alive():
                return
            lost = lost or "ended, as the connection is closed"
            raise OperationalError(f"cannot commit; the transaction was already {lost}")
        await self._run(b"COMMIT")
        self._end_transaction()

    async def rollback(self) -> None:
        """Roll back the outermost transaction; none open: do nothing."""
        if self.in_transaction:
            if self._cursor is not None:
                await self._cursor.close()
            await self._run(b"ROLLBACK")
        self._end_transaction()

    def _end_transaction(self) -> None:
        self._begun = self._rolled_back = self._committed_implicitly = False
        self._lost = ""
        self._savepoints.clear()

    def _transaction_ended(self, plan: QueryPlan, error: Error | None) -> None:
        """Note that a statement ended the transaction behind the back of its owner."""
        if self._lost:
            return
        if error is None or plan.implicit_commit:
            how = "rolled back" if plan.verb == "ROLLBACK" else "committed"
            reason = "" if plan.verb in ("COMMIT", "ROLLBACK") else ", which commits implicitly"
            self._lost = f"{how} by the statement {plan.verb or '?'}{reason}"
            self._committed_implicitly = bool(reason)
        else:
            # What follows would be committed one by one.
            self._rolled_back = True
            self._lost = f"rolled back by the server (error {number_of(error)})"

    @property
    def ended_by(self) -> str:
        """What ended the open transaction behind our back, in words; "" where nothing has."""
        return f"its transaction was {self._lost}" if self._lost else ""

    def note_implicit_commit(self) -> bool:
        """Return whether a statement that others ran has committed the transaction."""
        if not self._begun or self.in_transaction or not self.is_open:
            return False
        # Of ours, none that has done so goes before: no savepoint is opened behind it.
        self._lost = "committed by a statement which commits implicitly"
        self._committed_implicitly = True
        return True

    async def savepoint(self) -> None:
        """Open a savepoint inside the innermost one."""
        self._check_still_open("open a savepoint")
        name = f"fastdb_{len(self._savepoints) + 1}"
        await self._run(b"SAVEPOINT " + name.encode())
        self._savepoints.append(name)

    async def release_savepoint(self) -> None:
        """Keep what happened since the innermost savepoint."""
        await self._end_savepoint(b"RELEASE SAVEPOINT ", "release a savepoint")

    async def rollback_to_savepoint(self) -> None:
        """Undo what happened since the innermost savepoint, and end it."""
        # It stays on the server, where the next of its name replaces it.
        await self._end_savepoint(b"ROLLBACK TO SAVEPOINT ", "roll back to a savepoint")

    async def _end_savepoint(self, command: bytes, doing: str) -> None:
        name = self._savepoints.pop() if self._savepoints else ""
        self._check_still_open(doing)
        if not name:
            raise OperationalError(f"cannot {doing}; none is open")
        try:
            await self._run(command + name.encode())
        except DatabaseError as error:
            if number_of(error) != 1305:
                raise
            raise OperationalError(
                f"cannot {doing}; a statement that commits implicitly removed it"
            ) from error

    def _check_still_open(self, doing: str) -> None:
        if self._begun and not self.in_transaction:
            lost = self._lost or "ended, as the connection is closed"
            raise OperationalError(f"cannot {doing}; the transaction was already {lost}")
