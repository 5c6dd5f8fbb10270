"""One connection to PostgreSQL."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import select
import socket
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NoReturn

import asyncpg

from fastdb.drivers.base import (
    CANCEL_SECONDS,
    RECENTLY,
    DriverConnection,
    Outcome,
    TransactionOptions,
    socket_descriptors,
    to_its_end,
)
from fastdb.drivers.postgresql_cursors import BufferedCursor, HeldCursor, PortalCursor, records_of
from fastdb.drivers.postgresql_errors import translate
from fastdb.exceptions import (
    ConnectionFailedError,
    InternalError,
    NotSupportedError,
    TransactionError,
)
from fastdb.exceptions_driver import from_driver
from fastdb.sql_text import Lexical, _statements

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastdb._speedups import QueryPlan, Record
    from fastdb.drivers.base import Args, Batch, DriverCursor
    from fastdb.drivers.postgresql import PostgreSQLDriver
    from fastdb.drivers.postgresql_raw import TaggedConnection

__all__ = ["PostgreSQLConnection"]

#: Seconds that the server has to answer a check, or to roll back.
PATIENCE: Final = 5.0

LEXICAL: Final = Lexical("postgresql")

ISOLATION_LEVELS: Final = ("serializable", "repeatable_read", "read_committed", "read_uncommitted")
_SHOWN_LEVELS: Final = sorted(name.replace("_", " ").upper() for name in ISOLATION_LEVELS)

#: Statements after which a prepared statement may expect types that are no longer there.
_CHANGING_VERBS: Final = frozenset({"ALTER", "DROP"})
#: Statements of other kinds that may return rows.
_ROW_VERBS: Final = frozenset({"", "CALL", "EXECUTE", "ANALYZE"})

#: Windows has no poll(); asyncio's own view has to do there.
_POLLS: Final = hasattr(select, "poll")
_POLL_GONE: Final = (
    select.POLLHUP | select.POLLERR | select.POLLNVAL | getattr(select, "POLLRDHUP", 0)
    if _POLLS
    else 0
)

_names = itertools.count(1)


class PostgreSQLConnection(DriverConnection):
    """Run plans on a connection of asyncpg."""

    errors_spoil_transactions = True

    __slots__ = (
        "_changed_schema",
        "_driver",
        "_poll",
        "_savepoints",
        "_seen_schema",
        "_transaction",
        "_transport",
    )

    raw: TaggedConnection

    def __init__(self, raw: TaggedConnection, driver: PostgreSQLDriver) -> None:
        """Wrap `raw`, which is open and idle."""
        super().__init__(raw)
        self._driver = driver
        self._seen_schema = driver.schema_changes
        self._changed_schema = False
        self._transaction: Any = None
        self._savepoints: list[str] = []
        self._transport = raw.transport
        self._poll = None
        descriptors = self.descriptors()  # none where the server has hung up already
        if _POLLS and descriptors:
            self._poll = select.poll()
            self._poll.register(descriptors[0], select.POLLIN | _POLL_GONE)

    # -- queries

    async def fetch_all(self, plan: QueryPlan, args: Args) -> list[Record]:
        """Return every row."""
        if not plan.returns_rows:
            return (await self.execute(plan, args)).rows
        if self._seen_schema != self._driver.schema_changes:
            await self._forget_statements()
        return records_of(plan, await self._fetch(plan.sql, args))

    async def fetch_one(self, plan: QueryPlan, args: Args) -> Record | None:
        """Return the first row, or None; the server discards the others."""
        if not plan.returns_rows:
            records = (await self.execute(plan, args)).rows
            return records[0] if records else None
        if self._seen_schema != self._driver.schema_changes:
            await self._forget_statements()
        raw, sql = self.raw, plan.sql
        statement = raw.prepared(sql)
        try:
            if statement is None:
                row = await raw.fetchrow(sql, *args)
            else:
                with raw.exclusive:
                    rows = await raw.run(statement, args, "", 1, False, None)
                row = rows[0] if rows else None
        except BaseException as error:
            row = await self._recover(error, raw.fetchrow, sql, args, direct=statement is not None)
        if row is None:
            return None
        record: Record = plan.layout(tuple(row.keys())).record(row)
        return record

    async def execute(self, plan: QueryPlan, args: Args) -> Outcome:
        """Run one statement; a text without parameters may hold several."""
        if self._seen_schema != self._driver.schema_changes:
            await self._forget_statements()
        raw, sql = self.raw, plan.sql
        rows_expected = plan.returns_rows or (plan.kind == "other" and plan.verb in _ROW_VERBS)
        if rows_expected and not (not args and _is_script(sql)):
            records = records_of(plan, await self._fetch(sql, args))
            return Outcome(records, len(records), None)
        statement = raw.prepared(sql) if args else None
        try:
            if statement is None:
                tag = await raw.execute(sql, *args)
            else:
                with raw.exclusive:
                    answer = await raw.run(statement, args, "", 0, True, None)
                tag = answer[1].decode()
        except BaseException as error:
            tag = await self._recover(error, raw.execute, sql, args, direct=statement is not None)
        if plan.verb in _CHANGING_VERBS or (not args and plan.kind == "ddl" and _is_script(sql)):
            self._note_schema_change()
        return Outcome([], _rowcount(tag), None)

    async def _fetch(self, sql: str, args: Args) -> Any:
        raw = self.raw
        statement = raw.prepared(sql)
        try:
            if statement is None:
                return await raw.fetch(sql, *args)
            with raw.exclusive:
                return await raw.run(statement, args, "", 0, False, None)
        except BaseException as error:
            return await self._recover(error, raw.fetch, sql, args, direct=statement is not None)

    async def execute_many(self, batches: Iterator[Batch]) -> None:
        """Run every batch with asyncpg's executemany.

        One batch outside a transaction is atomic as it is: all of its messages stand before a
        single Sync, so the server runs them in one implicit transaction.
        """
        first = next(batches, None)
        if first is None:
            return
        second = next(batches, None)
        if second is None and not self.in_transaction:
            await self._run_batch(*first)
            return
        nested = self.in_transaction
        await (self.savepoint() if nested else self.begin(TransactionOptions()))
        try:
            await self._run_batch(*first)
            while second is not None:
                await self._run_batch(*second)
                second = next(batches, None)
        except BaseException:
            await (self.rollback_to_savepoint() if nested else self.rollback())
            raise
        await (self.release_savepoint() if nested else self.commit())

    async def _run_batch(self, plan: QueryPlan, rows: list[Args]) -> None:
        if self._seen_schema != self._driver.schema_changes:
            await self._forget_statements()
        try:
            await self._executemany(plan.sql, rows)
        except BaseException as error:
            await self._recover(error, self._executemany, plan.sql, (rows,))

    async def _executemany(self, sql: str, rows: list[Args]) -> None:
        # In a task of its own: asyncpg swallows a cancellation that comes while it waits for
        # the socket, and then waits for ever, because the closing Sync was not sent.
        task = asyncio.ensure_future(self.raw.executemany(sql, rows))
        task.add_done_callback(_look_at)
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            task.cancel()
            done, _ = await asyncio.wait((task,), timeout=0.05)
            if not done:
                self.terminate()
            raise
        task.result()

    async def open_cursor(self, plan: QueryPlan, args: Args, *, hold: bool) -> DriverCursor:
        """Open a portal inside a transaction, or a cursor ``WITH HOLD`` outside any."""
        own = not self.in_transaction
        if not plan.returns_rows or (own and hold and plan.kind != "select"):
            return BufferedCursor((await self.execute(plan, args)).rows)
        if own and hold:
            return await HeldCursor.open(self, plan, args)
        if own:
            await self.begin(TransactionOptions())
        return await PortalCursor.open(self, plan, args, own_transaction=own)

    # -- transactions

    @property
    def in_transaction(self) -> bool:
        """Whether the session is in a transaction, also in one begun by a text."""
        raw = self.raw
        return not raw.is_closed() and bool(raw.is_in_transaction())

    async def begin(self, options: TransactionOptions) -> None:
        """Begin a transaction of asyncpg's, so that its tools know of it."""
        arguments, further = _transaction_arguments(options, self.raw)
        if self.in_transaction:
            raise TransactionError(
                "cannot begin; the connection is in a transaction that a statement of its own began"
            )
        try:
            transaction = self.raw.transaction(**arguments)
            await transaction.start()
            if further:
                await self.raw.execute(f"SET TRANSACTION {further}")
        except BaseException as error:
            await self._abandon_transaction(error)
        self._transaction = transaction

    async def commit(self) -> None:
        """Commit; raise where the server rolled back instead."""
        transaction, self._transaction = self._transaction, None
        self._savepoints.clear()
        if self.raw.is_closed():
            self._changed_schema = False
            self.raw.forget_transaction()
            closed = asyncpg.InterfaceError(
                "cannot commit; the connection is closed and the transaction rolled back"
            )
            raise from_driver(ConnectionFailedError, closed) from closed
        try:
            if transaction is None:
                await self.raw.execute("COMMIT")
            else:
                await transaction.commit()
        except BaseException as error:
            await self._abandon_transaction(error)
        if self.raw.last_tag == "ROLLBACK":
            self._changed_schema = False
            failed = asyncpg.InFailedSQLTransactionError(
                "the transaction is not committed: the server rolled it back, because an earlier "
                "statement in it had failed"
            )
            raise from_driver(InternalError, failed) from failed
        if self._changed_schema:
            self._note_schema_change()

    async def rollback(self) -> None:
        """Roll back; nothing is left to do where the connection is lost."""
        transaction, self._transaction = self._transaction, None
        self._savepoints.clear()
        self._changed_schema = False
        try:
            if not self.in_transaction:
                self.raw.forget_transaction()
            elif transaction is not None:
                await transaction.rollback()
            else:
                self.raw.forget_transaction()
                await self.raw.execute("ROLLBACK")
        except BaseException as error:
            await self._abandon_transaction(error)

    async def savepoint(self) -> None:
        """Open a savepoint."""
        name = f"fastdb_{next(_names)}"
        await self.control(f"SAVEPOINT {name}")
        self._savepoints.append(name)

    async def release_savepoint(self) -> None:
        """Release the innermost savepoint; where that fails, roll back to it."""
        name = self._savepoints.pop()
        try:
            await self.control(f"RELEASE SAVEPOINT {name}")
        except Exception:
            self._savepoints.append(name)
            await self.rollback_to_savepoint()
            raise

    async def rollback_to_savepoint(self) -> None:
        """Roll back to the innermost savepoint and release it: asyncpg's own pile up."""
        name = self._savepoints.pop()
        if not self.raw.is_closed():
            await self.control(f"ROLLBACK TO SAVEPOINT {name}; RELEASE SAVEPOINT {name}")

    async def control(self, sql: str) -> None:
        """Run a command that has no arguments and returns no rows."""
        try:
            await self.raw.execute(sql)
        except BaseException as error:
            await self.fail(error, sql)

    async def _abandon_transaction(self, error: BaseException) -> NoReturn:
        """Leave the connection outside any transaction, or closed; then raise."""
        try:
            await self.fail(error)
        finally:
            self._changed_schema = False
            self.raw.forget_transaction()
            if self.in_transaction:
                try:
                    await self.raw.execute("ROLLBACK", timeout=PATIENCE)
                except BaseException:  # the error that led here is the one to tell
                    self.terminate()

    # -- failures

    async def fail(self, error: BaseException, sql: str = "") -> NoReturn:
        """Raise `error` as one of fastdb's, with the connection ready for use, or closed."""
        if isinstance(error, Exception):
            translated = translate(error, self.raw, sql)
            if not isinstance(error, asyncpg.PostgresError):
                self.suspect = True
            if translated is error:
                raise error
            raise translated from error
        self.suspect = True
        if isinstance(error, asyncio.CancelledError):
            if self.precious:  # also where it is cancelled again
                await to_its_end(self._settle(), self)
            else:
                await self._settle()
        else:
            self.terminate()
        raise error

    async def _settle(self) -> None:
        """Wait until a cancelled statement has ended on the server; else cut the connection.

        asyncpg sends the cancellation on its own, and lets no other statement begin before it is
        acknowledged; before 0.32 it waits without end for that, whatever the timeout.
        """
        if self.raw.is_closed():
            return
        try:
            async with asyncio.timeout(self.cancel_seconds(CANCEL_SECONDS)):
                await self.raw.execute("SELECT 1")
        except asyncpg.PostgresError:
            pass  # an answer all the same: the transaction has failed
        except BaseException:  # no answer in time, or cancelled again
            self._driver.see_through(self.raw.take_cancellations(), PATIENCE)
            self.terminate()

    async def _recover(
        self,
        error: BaseException,
        method: Callable[..., Any],
        sql: str,
        args: tuple[Any, ...],
        *,
        direct: bool = False,
    ) -> Any:
        """Run a statement again that failed for a type that is gone; otherwise raise.

        Args:
            error: What it raised.
            method: The method of asyncpg's that runs it.
            sql: Its text.
            args: Its arguments.
            direct: Whether it was run without that method, which looks after statements whose
                result has changed: again, where it could not begin and no transaction failed.
        """
        again = False
        if isinstance(error, asyncpg.InternalServerError):
            again = not self.in_transaction and str(error).startswith(
                "cache lookup failed for type"  # never translated
            )
            if again:
                await self._forget_statements()
        elif direct and isinstance(error, asyncpg.InvalidCachedStatementError):
            self.raw.forget_statements()
            again = not self.in_transaction
        elif direct and isinstance(error, asyncpg.OutdatedSchemaCacheError):
            await self.raw.reload_schema_state()
        if again:
            try:
                return await method(sql, *args)
            except BaseException as second:
                await self.fail(second, sql)
        await self.fail(error, sql)

    # -- prepared statements

    def _note_schema_change(self) -> None:
        # Other connections see it once it is committed: then they are told again.
        self._changed_schema = self.in_transaction
        self._driver.schema_changes += 1

    async def _forget_statements(self) -> None:
        """Drop asyncpg's statements and types: a type that they name may be another by now."""
        self._seen_schema = self._driver.schema_changes
        if not self.raw.is_closed():
            await self.raw.reload_schema_state()

    # -- the connection's life

    def is_alive(self, *, look: bool = True) -> bool:
        """Look at asyncpg's state and, without waiting, at the socket."""
        if not self.raw.is_ready():
            return False
        events = self._poll.poll(0) if look and self._poll is not None else []
        if not events:
            return True
        descriptor, event = events[0]
        if event & _POLL_GONE:
            return False
        encrypted = self._transport.get_extra_info("ssl_object") is not None
        return encrypted or not _announces_end(descriptor)

    def is_still_alive(self) -> bool:
        """Return :meth:`is_alive`, without a look at the socket where it was used just now."""
        if monotonic() - self.used_at > RECENTLY:
            return self.is_alive()
        return self.raw.is_ready()

    def is_idle(self) -> bool:
        """Return whether it can be used and is in no transaction, without a look at the socket."""
        return self.raw.is_idle()

    async def check(self) -> None:
        """Ask the server for a one."""
        try:
            await self.raw.execute("SELECT 1", timeout=PATIENCE)
        except TimeoutError as error:
            self.terminate()
            raise ConnectionFailedError(
                f"the server did not answer within {PATIENCE:g} s"
            ) from error
        except BaseException as error:
            await self.fail(error)

    async def reset(self) -> None:
        """Reset the session as asyncpg does, and what that leaves behind."""
        await self.rollback()
        try:
            await self.raw.reset()
            for typename, schema in self.raw.codecs - self._driver.codecs:
                await self.raw.reset_type_codec(typename, schema=schema)
        except BaseException as error:
            await self.fail(error)
        await self._driver.run_init(self.raw)

    async def close(self) -> None:
        """Say good-bye to the server; cut the connection where that takes too long."""
        try:
            await self.raw.close(timeout=PATIENCE)
        except Exception:
            self.terminate()

    def terminate(self) -> None:
        """Cut the connection."""
        self.raw.terminate()

    def descriptors(self) -> list[int]:
        """Return the descriptor of the socket."""
        return socket_descriptors(self._transport)


def _look_at(task: asyncio.Future[Any]) -> None:
    """Take note of how a task ended, so that asyncio need not report it."""
    if not task.cancelled():
        task.exception()


def _is_script(sql: str) -> bool:
    """Return whether a text holds more than one statement."""
    if ";" not in sql.rstrip("; \t\r\n"):
        return False
    return len(list(itertools.islice(_statements(sql, LEXICAL), 2))) > 1


def _rowcount(tag: str) -> int:
    count = tag.rpartition(" ")[2]
    return int(count) if count.isdecimal() else -1


def _transaction_arguments(
    options: TransactionOptions, raw: TaggedConnection
) -> tuple[dict[str, Any], str]:
    """Return the arguments of asyncpg's transaction, and what it cannot say."""
    if options.begin is not None:
        raise NotSupportedError(
            f"PostgreSQL has no begin={options.begin!r}; it is an option of SQLite's transactions"
        )
    isolation = options.isolation
    if isolation is not None:
        isolation = re.sub(r"[\s_-]+", "_", isolation.strip().lower())
        if isolation not in ISOLATION_LEVELS:
            raise NotSupportedError(
                f"PostgreSQL has no isolation level {options.isolation!r}; "
                f"it has {', '.join(_SHOWN_LEVELS)}"
            )
    if options.deferrable and not (isolation == "serializable" and options.readonly):
        raise NotSupportedError(
            "deferrable=True has an effect only together with isolation='serializable' and "
            "readonly=True"
        )
    further = []
    read_only = getattr(raw.get_settings(), "default_transaction_read_only", None)
    if options.readonly is False and read_only != "off":
        further.append("READ WRITE")
    if options.deferrable is False:
        further.append("NOT DEFERRABLE")
    arguments = {
        "isolation": isolation,
        "readonly": bool(options.readonly),
        "deferrable": bool(options.deferrable),
    }
    return arguments, ", ".join(further)


def _announces_end(descriptor: int) -> bool:
    """Return whether what waits on an idle connection is its end, or an error (which ends it)."""
    with socket.socket(fileno=os.dup(descriptor)) as peer:
        try:
            return peer.recv(1, socket.MSG_PEEK) in (b"", b"E")
        except OSError:  # pragma: no cover: it came after the look for errors
            return True
