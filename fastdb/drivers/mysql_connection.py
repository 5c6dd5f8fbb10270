"""What the drivers of MySQL and MariaDB share: aiomysql's and asyncmy's connections are alike.

Both packages descend from PyMySQL and speak the text protocol. Their cursors are not used: they
add a coroutine, a SHOW WARNINGS and their own formatting to each query, and cannot write every
value. What is used of a connection: ``_execute_command``, ``_read_query_result``, ``next_result``,
``_read_ok_packet``, ``ping``, ``ensure_closed``, ``close`` and ``server_status``.

Two facts of the server shape this module. MariaDB does not notice that a client closed its socket
until it has something to send: ``SELECT SLEEP(60)`` goes on. So a statement that is given up is
killed over a second, short-lived connection. And every OK and EOF packet carries the server's
status, but an error packet does not: after an error inside a transaction a ping asks for it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import select
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from fastdb.drivers.base import (
    DriverConnection,
    DriverCursor,
    Outcome,
    TransactionOptions,
)
from fastdb.drivers.mysql_cursor import MySQLCursor
from fastdb.drivers.mysql_errors import (
    FATAL,
    UNKNOWN_COMMAND,
    is_server_error,
    number_of,
    translate,
)
from fastdb.drivers.mysql_literals import insert_shape
from fastdb.exceptions import (
    ConnectionFailedError,
    DatabaseError,
    DataError,
    Error,
    InternalError,
    NotSupportedError,
    OperationalError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastdb._speedups import QueryPlan, Record
    from fastdb.drivers.base import Args, Batch
    from fastdb.drivers.mysql_base import MySQLBaseDriver

__all__ = ["MySQLConnection", "ServerFacts"]

_log = logging.getLogger("fastdb")

_COM_INIT_DB = 0x02
_COM_QUERY = 0x03
_COM_RESET_CONNECTION = 0x1F
_IN_TRANSACTION = 0x0001
_NO_BACKSLASH_ESCAPES = 0x0200

#: Bytes of one multi-row INSERT: more gains nothing and only costs memory.
_INSERT_SIZE = 1 << 20
#: Rows that closing a cursor reads before it has the statement killed.
_DRAINED_ROWS = 2000
_PING_SECONDS = 5.0
_CLOSE_SECONDS = 2.0

#: Errors that end one statement and never the transaction: no need to ask for the status.
_HARMLESS = frozenset({1048, 1062, 1064, 1054, 1264, 1406, 1451, 1452, 3819, 4025})

_ISOLATION = {"READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"}


class ServerFacts(NamedTuple):
    """What a new connection asks the server."""

    sql_mode: str
    max_allowed_packet: int
    charset: str
    collation: str
    hostname: str
    port: int
    version: str


_FACTS = (
    b"SELECT @@sql_mode, @@max_allowed_packet, @@character_set_client, @@collation_connection,"
    b" @@hostname, @@port, VERSION()"
)


class MySQLConnection(DriverConnection):
    """A connection of aiomysql or asyncmy."""

    counts_inserts = True

    __slots__ = (
        "_begun",
        "_busy",
        "_committed_implicitly",
        "_cursor",
        "_driver",
        "_lost",
        "_poll",
        "_rolled_back",
        "_savepoints",
        "_thread_id",
        "facts",
    )

    def __init__(self, driver: MySQLBaseDriver, raw: Any) -> None:
        super().__init__(raw)
        self._driver = driver
        self._thread_id: int = driver.thread_id(raw)
        self._busy = False
        self._cursor: MySQLCursor | None = None
        self._poll: Any = None
        self._savepoints: list[str] = []
        # Whether begin() opened a transaction that nobody has ended through this class.
        self._begun = False
        # What ended it meanwhile, and whether that undid it rather than committed it.
        self._lost = ""
        self._committed_implicitly = False
        self._rolled_back = False
        self.facts: ServerFacts | None = None

    # -- queries

    async def fetch_all(self, plan: QueryPlan, args: Args) -> list[Record]:
        """Return every row."""
        result = await self._query(plan, self._render(plan.sql, args))
        driver = self._driver
        return [] if driver.names(result) is None else driver.records(plan, result, result.rows)

    async def fetch_one(self, plan: QueryPlan, args: Args) -> Record | None:
        """Return the first row, or None; the rest of the result is discarded."""
        result = await self._query(plan, self._render(plan.sql, args), limit=1)
        if not result.rows:
            return None
        return self._driver.records(plan, result, result.rows[:1])[0]

    async def execute(self, plan: QueryPlan, args: Args) -> Outcome:
        """Run one statement, whether it returns rows or not."""
        result = await self._query(plan, self._render(plan.sql, args))
        driver = self._driver
        if driver.names(result) is not None:
            records = driver.records(plan, result, result.rows)
            return Outcome(records, len(records), None)
        count = result.affected_rows
        # The server gives -1 as an unsigned number.
        return Outcome([], -1 if count >= 1 << 63 else count, result.insert_id or None)

    async def execute_many(self, batches: Iterator[Batch]) -> None:
        """Run every batch, all or nothing: rows of a plain insert in few statements."""
        statements = self._statements(batches)
        first = next(statements, None)
        if first is None:
            return
        second = next(statements, None)
        if second is None:
            # One statement is all or nothing by itself.
            await self._query(*first)
            return
        nested = self.in_transaction
        await (self.savepoint() if nested else self.begin(TransactionOptions()))
        try:
            await self._query(*first)
            await self._query(*second)
            first = second = None  # they may be large
            for plan, sql in statements:
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

    def _statements(self, batches: Iterator[Batch]) -> Iterator[tuple[QueryPlan, bytes]]:
        """Yield the statements that run the batches, several rows in one where that is the same."""
        for plan, rows in batches:
            shape = insert_shape(plan.sql, self._backslashes)
            if shape is None:
                for args in rows:
                    yield plan, self._render(plan.sql, args)
                continue
            head, group, tail = shape.head % (), shape.group, shape.tail % ()
            limit = min(_INSERT_SIZE, self._packet_size) - len(head) - len(tail) - 64
            parts: list[str] = []
            size = 0
            for args in rows:
                part = group % self._literals(args)
                # A character has four bytes at most; counting them all would cost more.
                length = len(part) if part.isascii() else 4 * len(part)
                if parts and size + length > limit:
                    yield plan, self._encode(head + ",".join(parts) + tail)
                    parts, size = [], 0
                parts.append(part)
                size += length + 1
            if parts:
                yield plan, self._encode(head + ",".join(parts) + tail)

    async def open_cursor(self, plan: QueryPlan, args: Args, *, hold: bool) -> DriverCursor:
        """Start a result that is read in pieces, in constant memory."""
        result = await self._query(plan, self._render(plan.sql, args), unbuffered=True)
        cursor = MySQLCursor(self, plan, result)
        if cursor.active:
            self._cursor = cursor
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
            translated = await self._after_failure(error)
            if translated is None:
                raise
            raise translated from error
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
        finally:
            self._forget(cursor)
        if self.is_open:
            # Should the kill have come after the statement's end, it hits this and nothing else.
            with suppress(Error):
                await self._run(b"DO 0")

    def _forget(self, cursor: MySQLCursor) -> None:
        cursor.detach()
        if self._cursor is cursor:
            self._cursor = None

    async def _end_of_results(self, result: Any) -> None:
        """Read and drop the results after the first one, and note the server's status."""
        raw = self.raw
        if result.server_status:
            raw.server_status = result.server_status
        while raw._result is not None and raw._result.has_next:
            await raw.next_result()

    # -- statements as text

    @property
    def _backslashes(self) -> bool:
        return not self.raw.server_status & _NO_BACKSLASH_ESCAPES

    @property
    def _packet_size(self) -> int:
        return self.facts.max_allowed_packet if self.facts is not None else _INSERT_SIZE

    def _literals(self, args: Args) -> tuple[str, ...]:
        driver = self._driver
        return driver.writer.literals(args, driver.encoders(self.raw), self._backslashes)

    def _render(self, sql: str, args: Args) -> bytes:
        return self._encode(sql % (self._literals(args) if args else ()))

    def _encode(self, text: str) -> bytes:
        try:
            sql = text.encode(self.raw._encoding)
        except UnicodeEncodeError as error:
            raise DataError(
                f"{text[error.start : error.end]!r} cannot be sent in the connection's charset,"
                f" {self.raw._encoding}"
            ) from error
        if len(sql) >= self._packet_size:
            raise DataError(
                f"the statement has {len(sql)} bytes; the server takes {self._packet_size}"
                " (max_allowed_packet)"
            )
        return sql

    # -- the way of every statement

    async def _query(
        self, plan: QueryPlan, sql: bytes, *, limit: int | None = None, unbuffered: bool = False
    ) -> Any:
        if self._rolled_back:
            raise OperationalError(
                f"cannot run a statement; the transaction was {self._lost}: roll it back first"
            )
        try:
            result = await self._run(sql, plan, limit=limit, unbuffered=unbuffered)
        except Error as error:
            if self._begun and self.is_open and not self.in_transaction:
                self._transaction_ended(plan, error)
            raise
        if self._begun and not self.in_transaction:
            self._transaction_ended(plan, None)
        return result

    async def _run(
        self,
        sql: bytes,
        plan: QueryPlan | None = None,
        *,
        limit: int | None = None,
        unbuffered: bool = False,
    ) -> Any:
        """Send one statement and read all that the server answers, or the first result's head."""
        if self._cursor is not None:
            await self._cursor.buffer_rest()
        raw = self.raw
        self._busy = True
        try:
            await raw._execute_command(_COM_QUERY, sql)
            await self._driver.read_result(raw, unbuffered, limit, plan)
            result = raw._result
            if result.has_next and not result.unbuffered_active:
                await self._end_of_results(result)
        except BaseException as error:
            translated = await self._after_failure(error)
            if translated is None:
                raise
            raise translated from error
        finally:
            self._busy = False
        return result

    async def _command(self, command: int, payload: bytes = b"") -> None:
        """Run a command that the server answers with OK."""
        if self._cursor is not None:
            await self._cursor.buffer_rest()
        self._busy = True
        try:
            await self.raw._execute_command(command, payload)
            await self.raw._read_ok_packet()
        except BaseException as error:
            translated = await self._after_failure(error)
            if translated is None:
                raise
            raise translated from error
        finally:
            self._busy = False

    async def _after_failure(self, error: BaseException) -> Error | None:
        """Bring the connection in order; return the error to raise, or None for the same."""
        if not isinstance(error, Exception):
            self._drop()
            if isinstance(error, asyncio.CancelledError):
                await self._driver.kill(self)
            return None
        if isinstance(error, Error):
            return None
        if is_server_error(error, self._driver.base_error):
            number = number_of(error)
            if number in FATAL:
                self._drop()
            elif self.in_transaction and number not in _HARMLESS:
                await self._refresh_status()
            return translate(error)
        # The answer was not read to its end: nothing on this connection can be trusted now.
        was_open = self.is_open
        self._drop()
        if isinstance(error, (self._driver.base_error, OSError, EOFError)):
            return translate(error, None if number_of(error) else ConnectionFailedError)
        if not was_open:
            return ConnectionFailedError(f"the connection is closed ({error})")
        if isinstance(error, UnicodeDecodeError):
            return DataError(f"a value is none of the connection's charset: {error}")
        if self._driver.converts:
            return None  # raised by a decoder of the user's
        return InternalError(f"the server's answer cannot be read: {error!r}")

    async def _refresh_status(self) -> None:
        """Ask whether the transaction is still open: an error packet does not say."""
        try:
            async with asyncio.timeout(_PING_SECONDS):
                await self.raw.ping(reconnect=False)
        except Exception:
            self._drop()
        except BaseException:
            self._drop()
            raise

    # -- transactions

    @property
    def in_transaction(self) -> bool:
        """Whether the session is in a transaction, by the last packet's status."""
        return bool(self.raw.server_status & _IN_TRANSACTION) and self.is_open

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

    # -- the connection's life

    @property
    def is_open(self) -> bool:
        """Whether the connection is open on this side."""
        transport = self._driver.transport(self.raw)
        return transport is not None and not transport.is_closing()

    def is_alive(self) -> bool:
        """Return whether the connection can be used, as far as the socket tells."""
        if self._busy or not self.is_open or self._driver.at_eof(self.raw):
            return False
        if self._cursor is not None:
            return True  # rows of its result may wait to be read
        return not self._driver.has_unread(self.raw) and not self._is_readable()

    def _is_readable(self) -> bool:
        """Return whether something waits in the socket: the peer's end, or its last words."""
        handle = self._driver.transport(self.raw).get_extra_info("socket").fileno()
        if handle < 0:
            return True
        if not hasattr(select, "poll"):
            return bool(select.select([handle], [], [], 0)[0])
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(handle, select.POLLIN)
        return bool(self._poll.poll(0))

    async def check(self) -> None:
        """Ask the server with a ping; raise where it does not answer as it should."""
        try:
            async with asyncio.timeout(_PING_SECONDS):
                await self._command(0x0E)
        except TimeoutError as error:
            self._drop()
            raise ConnectionFailedError(
                f"the server did not answer a ping within {_PING_SECONDS:g} seconds"
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
            await self._run(self._encode(command))
        await self._initialize()

    def _session_sql(self) -> bytes:
        """Return the SET that repeats what the handshake and the options chose."""
        facts, settings = self.facts, self._driver.settings
        assert facts is not None
        parts = [f"SET NAMES {facts.charset} COLLATE {facts.collation}", "autocommit=1"]
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
        if (zone := self._driver.settings.time_zone) is not None:
            await self._run(f"SET time_zone={zone}".encode())

    async def _initialize(self) -> None:
        if self._driver.settings.init is not None:
            await self._driver.settings.init(self.raw)

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

    def terminate(self) -> None:
        """Close at once, without awaiting anything; a running statement is killed."""
        running = (self._busy or self._cursor is not None) and self.is_open
        self._drop()
        if running:
            with suppress(RuntimeError):  # no loop runs any more: nothing can be sent
                self._driver.order_kill(self)

    def _drop(self) -> None:
        if self._cursor is not None:
            self._forget(self._cursor)
        transport = self._driver.transport(self.raw)
        if transport is not None:
            with suppress(RuntimeError):  # the loop is closed
                transport.abort()
                self.raw.close()
        self._driver.forget_transport(self.raw)

    @property
    def kill_target(self) -> tuple[int, tuple[str, int] | None]:
        """The connection's number, and the server that it is a number of."""
        facts = self.facts
        return self._thread_id, None if facts is None else (facts.hostname, facts.port)
