"""What the drivers of MySQL and MariaDB share: aiomysql's and asyncmy's connections are alike.

Both packages descend from PyMySQL and speak the text protocol. Their cursors are not used: they
add a coroutine, a SHOW WARNINGS and their own formatting to each query, and cannot write every
value. What is used of a connection: ``_execute_command``, ``_read_query_result``, ``next_result``,
``_read_ok_packet``, ``ping``, ``ensure_closed``, ``close`` and ``server_status``.

The way of every statement is in :mod:`fastdb.drivers.mysql_exchange`.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fastdb.drivers.base import DriverCursor, Outcome, TransactionOptions
from fastdb.drivers.mysql_batches import statements
from fastdb.drivers.mysql_cursor import MySQLCursor
from fastdb.drivers.mysql_errors import UNKNOWN_COMMAND, number_of
from fastdb.drivers.mysql_exchange import PING_SECONDS, ServerFacts
from fastdb.drivers.mysql_transactions import MySQLTransactions
from fastdb.exceptions import ConnectionFailedError, DatabaseError, Error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastdb._speedups import QueryPlan, Record
    from fastdb.drivers.base import Args, Batch

__all__ = ["MySQLConnection"]

_log = logging.getLogger("fastdb")

_COM_INIT_DB = 0x02
_COM_PING = 0x0E
_COM_RESET_CONNECTION = 0x1F

#: Rows that closing a cursor reads before it has the statement killed.
_DRAINED_ROWS = 2000
_CLOSE_SECONDS = 2.0

_FACTS = (
    b"SELECT @@sql_mode, @@max_allowed_packet, @@character_set_client, @@collation_connection,"
    b" @@hostname, @@port, VERSION()"
)


class MySQLConnection(MySQLTransactions):
    """A connection of aiomysql or asyncmy."""

    counts_inserts = True

    __slots__ = ()

    # -- queries

    async def fetch_all(self, plan: QueryPlan, args: Args) -> list[Record]:
        """Return every row."""
        result = await self._query(plan, self.render(plan.sql, args))
        driver = self._driver
        return [] if driver.names(result) is None else driver.records(plan, result, result.rows)

    async def fetch_one(self, plan: QueryPlan, args: Args) -> Record | None:
        """Return the first row, or None; the rest of the result is discarded."""
        result = await self._query(plan, self.render(plan.sql, args), 1)
        rows = result.rows
        if not rows:
            return None
        if len(rows) > 1:  # asyncmy knows no limit
            rows = rows[:1]
        return self._driver.records(plan, result, rows)[0]

    async def execute(self, plan: QueryPlan, args: Args) -> Outcome:
        """Run one statement, whether it returns rows or not."""
        result = await self._query(plan, self.render(plan.sql, args))
        driver = self._driver
        if driver.names(result) is not None:
            records = driver.records(plan, result, result.rows)
            return Outcome(records, len(records), None)
        count = result.affected_rows
        # The server gives -1 as an unsigned number.
        return Outcome([], -1 if count >= 1 << 63 else count, result.insert_id or None)

    async def execute_many(self, batches: Iterator[Batch]) -> None:
        """Run every batch, all or nothing: rows of a plain insert in few statements."""
        texts = statements(self, batches)
        first = next(texts, None)
        if first is None:
            return
        # What changes the session may change how the next statement must be written.
        ahead = not first[0].changes_session
        second = next(texts, None) if ahead else None
        if second is None and ahead:
            # One statement is all or nothing by itself.
            await self._query(*first)
            return
        nested = self.in_transaction
        await (self.savepoint() if nested else self.begin(TransactionOptions()))
        try:
            await self._query(*first)
            if second is not None:
                await self._query(*second)
            first = second = None  # they may be large
            for plan, sql in texts:
                await self._query(plan, sql)
            if not nested:
                await self.commit()
        except BaseException:
            if self.is_open:
                try:
                    await (self.rollback_to_savepoint() if nested else self.rollback())
                except DatabaseError:
                    if not nested:
                        self.terminate()
            raise
        if nested:
            await self.release_savepoint()

    async def open_cursor(self, plan: QueryPlan, args: Args, *, hold: bool) -> DriverCursor:
        """Start a result that is read in pieces, in constant memory."""
        sql = self.render(plan.sql, args)
        result = await self._noting_end(plan, self._run_unbuffered(sql, plan))
        cursor = MySQLCursor(self, plan, result)
        if cursor.active:
            self._cursor = cursor
            self._driver.before_commands(self.raw, cursor.buffer_rest)
        return cursor

    def records(self, plan: QueryPlan, result: Any, rows: list[Any]) -> list[Record]:
        """Return the records of rows that :meth:`read_rows` gave."""
        return self._driver.records(plan, result, rows)

    async def read_rows(self, cursor: MySQLCursor, result: Any, size: int) -> list[Any]:
        """Return up to `size` rows of an open cursor; fewer mean its end."""
        self._busy = True
        try:
            rows = await self._driver.read_unbuffered(result, size)
            if not result.unbuffered_active:
                await self._end_of_results(result)
        except BaseException as error:
            self._forget(cursor)
            await self._fail(error)
        finally:
            self._busy = False
        if not result.unbuffered_active:
            self._forget(cursor)
        return rows

    async def abandon(self, cursor: MySQLCursor, result: Any) -> None:
        """Give up an open cursor: read a little further, then have the statement killed.

        A transaction survives that; closing the connection would end it.
        """
        try:
            rows = await self.read_rows(cursor, result, _DRAINED_ROWS)
            if len(rows) == _DRAINED_ROWS and cursor.active:
                killed = await self._driver.kill(self, query_only=True)
                if not killed and not self.in_transaction:
                    self.terminate()
                    return
                while cursor.active:
                    await self.read_rows(cursor, result, _DRAINED_ROWS)
        except Error:
            pass  # nobody asks for this result any more; 1317 is what the kill makes of it
        except BaseException:
            self.terminate()  # the kill may be still to come, and would hit what is run next
            raise
        finally:
            self._forget(cursor)
        if self.is_open:
            # Should the kill have come after the statement's end, it hits this and nothing else.
            with suppress(Error):
                await self._run(b"DO 0")

    # -- the connection's life

    async def check(self) -> None:
        """Ask the server with a ping; raise where it does not answer as it should."""
        try:
            async with asyncio.timeout(PING_SECONDS):
                await self._command(_COM_PING)
        except TimeoutError as error:
            self._drop()
            raise ConnectionFailedError(
                f"the server did not answer a ping within {PING_SECONDS:g} seconds"
            ) from error

    async def reset(self) -> None:
        """Bring the session back to what it was after connecting, `init` included."""
        if self._cursor is not None:
            await self._cursor.close()
        self._end_transaction()
        try:
            await self._command(_COM_RESET_CONNECTION)
        except DatabaseError as error:
            if number_of(error) != UNKNOWN_COMMAND:
                raise
            await self._reconnect()
            return
        settings = self._driver.settings
        self._driver.after_reset(self.raw)
        await self._run(self._session_sql())
        if settings.database is not None:
            await self._command(_COM_INIT_DB, settings.database.encode())
        else:
            result = await self._run(b"SELECT DATABASE()")
            if result.rows[0][0] is not None:
                await self._reconnect()  # no command leaves a database again
                return
        if (command := settings.arguments.get("init_command")) is not None:
            await self._run(self.render(command.replace("%", "%%")))
        await self._initialize()

    def _session_sql(self) -> bytes:
        """Return the SET that repeats what the handshake and the options chose."""
        settings = self._driver.settings
        parts = [self._set_names().decode(), "autocommit=1"]
        if settings.sql_mode is not None:
            parts.append(f"sql_mode={settings.sql_mode}")
        if settings.time_zone is not None:
            parts.append(f"time_zone={settings.time_zone}")
        return ", ".join(parts).encode()

    async def _reconnect(self) -> None:
        fresh = await self._driver.connect()
        self.terminate()
        self.raw, self.facts = fresh.raw, fresh.facts
        self._thread_id, self._poll = fresh._thread_id, None

    async def prepare(self) -> None:
        """Learn about the server and run the user's `init`."""
        row = (await self._run(_FACTS)).rows[0]
        texts = [value.decode() if isinstance(value, bytes) else value for value in row]
        mode, packet, charset, collation, host, port, version = texts
        self.facts = ServerFacts(mode, int(packet), charset, collation, host, int(port), version)
        # A server, or init_command, may have another idea of it than the handshake.
        self.raw._encoding = self._driver.encoding_of(charset)
        if (zone := self._driver.settings.time_zone) is not None:
            await self._run(f"SET time_zone={zone}".encode())

    async def _initialize(self) -> None:
        if self._driver.settings.init is not None:
            await self._driver.settings.init(self.raw)
            await self._follow_charset()

    async def close(self) -> None:
        """Close in good order. Never raises for a connection that is already gone."""
        if not (self._busy or self._cursor is not None) and self.is_open:
            try:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._driver.close_raw(self.raw)
            except Exception as error:
                _log.debug("closing a connection to MySQL: %r", error)
            finally:
                self._drop()
        else:
            self.terminate()
