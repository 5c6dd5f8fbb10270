"""One statement and its answer, and what is left of a connection where that fails.

Two facts of the server shape this module. MariaDB does not notice that a client closed its socket
until it has something to send: ``SELECT SLEEP(60)`` goes on. So a statement that is given up is
killed over a second, short-lived connection: alone, where a transaction is to survive it, or with
its connection. And every OK and EOF packet carries the server's
status, but an error packet does not: after an error inside a transaction a ping asks for it.
"""

from __future__ import annotations

import asyncio
import select
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from fastdb.drivers.base import CANCEL_SECONDS, DriverConnection, socket_descriptors, to_its_end
from fastdb.drivers.mysql_errors import FATAL, INTERRUPTED, is_server_error, number_of, translate
from fastdb.drivers.mysql_options import UNSAFE_CHARSETS, check_charset
from fastdb.exceptions import ConnectionFailedError, DataError, Error, InternalError

if TYPE_CHECKING:
    from fastdb._speedups import QueryPlan, StatementWriter
    from fastdb.drivers.base import Args
    from fastdb.drivers.mysql_base import MySQLBaseDriver
    from fastdb.drivers.mysql_cursor import MySQLCursor

__all__ = ["COM_QUERY", "INSERT_SIZE", "PING_SECONDS", "MySQLExchange", "ServerFacts"]

COM_QUERY = 0x03

_IN_TRANSACTION = 0x0001
_NO_BACKSLASH_ESCAPES = 0x0200

#: Bytes of one multi-row INSERT: more gains nothing and only costs memory.
INSERT_SIZE = 1 << 20

PING_SECONDS = 5.0

#: Errors that end one statement and never the transaction: no need to ask for the status.
_HARMLESS = frozenset({1048, 1062, 1064, 1054, 1264, 1406, 1451, 1452, 3819, 4025})


class ServerFacts(NamedTuple):
    """What a new connection asks the server."""

    sql_mode: str
    max_allowed_packet: int
    charset: str
    collation: str
    hostname: str
    port: int
    version: str


class MySQLExchange(DriverConnection):
    """A connection of aiomysql or asyncmy that runs statements one by one."""

    __slots__ = (
        "_busy",
        "_cursor",
        "_driver",
        "_poll",
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
        self.facts: ServerFacts | None = None

    # -- statements as text

    @property
    def backslashes(self) -> bool:
        """Whether a backslash escapes in strings."""
        return not self.raw.server_status & _NO_BACKSLASH_ESCAPES

    @property
    def packet_size(self) -> int:
        """The bytes that a statement must not reach."""
        return self.facts.max_allowed_packet if self.facts is not None else INSERT_SIZE

    def render(self, sql: str, args: Args = ()) -> bytes:
        """Return a statement with the literals of its arguments.

        Raises:
            DataError: A value cannot be sent, or the statement is too large.
        """
        raw, driver = self.raw, self._driver
        return self.fitting(
            self._writer.statement(
                sql, args, driver.encoders(raw), self._encoding(), self.backslashes
            )
        )

    def render_rows(self, group: str, rows: list[Args], start: int, size: int) -> tuple[bytes, int]:
        """Return literals for as many rows as `size` bytes hold, and the first that is not there.

        Raises:
            DataError: A value cannot be sent.
        """
        raw, driver = self.raw, self._driver
        return self._writer.rows(
            group, rows, start, size, driver.encoders(raw), self._encoding(), self.backslashes
        )

    @property
    def _writer(self) -> StatementWriter:
        # A session that may have been changed may read in another charset than is known here.
        driver = self._driver
        return driver.careful_writer(self.raw._encoding) if self.dirty else driver.writer

    def _encoding(self) -> str:
        """Return the codec of the connection's charset, which the user may have changed."""
        encoding: str = self.raw._encoding
        if encoding in UNSAFE_CHARSETS:
            check_charset(encoding)
        return encoding

    def fitting(self, statement: bytes) -> bytes:
        """Return a statement that the server takes.

        Raises:
            DataError: It is too large.
        """
        if len(statement) >= self.packet_size:
            raise DataError(
                f"the statement has {len(statement)} bytes; the server takes {self.packet_size}"
                " (max_allowed_packet)"
            )
        return statement

    # -- the way of every statement

    async def _run(
        self, sql: bytes, plan: QueryPlan | None = None, limit: int | None = None
    ) -> Any:
        """Send one statement and read all that the server answers; return its first result."""
        if self._cursor is not None:
            await self._cursor.buffer_rest()
        self._busy = True
        try:
            result = await self._driver.exchange(self.raw, sql, limit, plan)
            if result.has_next:
                await self._end_of_results(result)
        except BaseException as error:
            await self._fail(error, is_users=plan is not None)
        finally:
            self._busy = False
        return result

    async def _run_unbuffered(self, sql: bytes, plan: QueryPlan) -> Any:
        """Send one statement and read the head of its result, or the whole that is no rows."""
        if self._cursor is not None:
            await self._cursor.buffer_rest()
        self._busy = True
        try:
            result = await self._driver.open_result(self.raw, sql, plan)
            if not result.unbuffered_active:
                await self._end_of_results(result)
        except BaseException as error:
            await self._fail(error)
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
            await self._fail(error)
        finally:
            self._busy = False

    async def _end_of_results(self, result: Any) -> None:
        """Read and drop the results after the first one, and note the server's status."""
        raw = self.raw
        if result.server_status:
            raw.server_status = result.server_status
        while raw._result is not None and raw._result.has_next:
            await raw.next_result()

    # -- failures

    async def _fail(self, error: BaseException, *, is_users: bool = False) -> NoReturn:
        """Bring the connection in order; raise what a command's failure means.

        Args:
            error: What failed.
            is_users: Whether the command is a statement of the user's, which has run by itself.
        """
        if is_users and isinstance(error, asyncio.CancelledError) and self.in_transaction:
            await self._interrupt()
            raise error
        translated = await self._after_failure(error)
        if translated is None:
            raise error
        raise translated from error

    async def _after_failure(self, error: BaseException) -> Error | None:
        """Bring the connection in order; return the error to raise, or None for the same."""
        if not isinstance(error, Exception):
            self._drop()
            if isinstance(error, asyncio.CancelledError):
                await self._driver.kill(self, seconds=CANCEL_SECONDS)
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
        if not was_open:  # pragma: no cover: what the packages raise there depends on versions
            return ConnectionFailedError(f"the connection is closed ({error})")
        if isinstance(error, UnicodeDecodeError):
            return DataError(f"a value is none of the connection's charset: {error}")
        if self._driver.converts:
            return None  # raised by a decoder of the user's
        return InternalError(f"the server's answer cannot be read: {error!r}")

    async def _interrupt(self) -> None:
        """Have the server end a cancelled statement alone, or else cut the connection with it.

        Elsewhere than in a transaction, a new connection costs no more than this.
        """
        if self.precious:  # also where it is cancelled again
            await to_its_end(self._end_statement(), self)
        else:
            await self._end_statement()

    async def _end_statement(self) -> None:
        goes_on = False
        try:
            # Where that fails, or takes too long, the cancellation is still the error to tell.
            with suppress(Exception):
                async with asyncio.timeout(self.cancel_seconds(CANCEL_SECONDS)):
                    goes_on = await self._kill_statement()
        finally:
            if not goes_on:
                self.terminate()

    async def _kill_statement(self) -> bool:
        """Kill the statement that was cancelled; return whether its transaction goes on."""
        driver = self._driver
        killed = driver.order_kill(self, query_only=True)
        await asyncio.wait((killed,))
        if not (killed.result() and await driver.rest_of_answer(self.raw)):
            return False
        # A kill that came after the statement's end hits what comes next.
        for _ in range(2):
            try:
                result = await driver.exchange(self.raw, b"DO 0", None, None)
            except driver.base_error as error:
                if number_of(error) != INTERRUPTED:
                    return False
            else:
                self.raw.server_status = result.server_status
                return self.in_transaction
        return False

    async def _refresh_status(self) -> None:
        """Ask whether the transaction is still open: an error packet does not say."""
        try:
            async with asyncio.timeout(PING_SECONDS):
                await self.raw.ping(reconnect=False)
        except Exception:
            self._drop()
        except BaseException:
            self._drop()
            raise

    # -- whether there is a connection

    @property
    def in_transaction(self) -> bool:
        """Whether the session is in a transaction, by the last packet's status."""
        return bool(self.raw.server_status & _IN_TRANSACTION) and self.is_open

    @property
    def is_open(self) -> bool:
        """Whether the connection is open on this side."""
        transport = self._driver.transport(self.raw)
        return transport is not None and not transport.is_closing()

    def is_alive(self, *, look: bool = True) -> bool:
        """Return whether the connection can be used, as far as the socket tells."""
        reading = self._cursor is not None  # rows of its result may wait there
        if self._busy or not self._driver.is_usable(self.raw, reading):
            return False
        return reading or not (look and self._is_readable())

    def _is_readable(self) -> bool:
        """Return whether something waits in the socket: the peer's end, or its last words."""
        handle = self._driver.transport(self.raw).get_extra_info("socket").fileno()
        if handle < 0:
            return True
        if not hasattr(select, "poll"):  # pragma: no cover: Windows has no poll
            return bool(select.select([handle], [], [], 0)[0])
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(handle, select.POLLIN)
        return bool(self._poll.poll(0))

    def descriptors(self) -> list[int]:
        """Return the descriptor of the socket."""
        return socket_descriptors(self._driver.transport(self.raw))

    def terminate(self) -> None:
        """Close at once, without awaiting anything; a running statement is killed."""
        running = (self._busy or self._cursor is not None) and self.is_open
        self._drop()
        if running:
            with suppress(RuntimeError):  # no loop runs any more: nothing can be sent
                self._driver.order_kill(self)

    def abandon_raw(self) -> None:
        """Close, and have the server end what it may still be doing."""
        self._drop()
        with suppress(RuntimeError):  # no loop runs any more
            self._driver.order_kill(self)

    def _forget(self, cursor: MySQLCursor) -> None:
        cursor.detach()
        if self._cursor is cursor:
            self._cursor = None
            self._driver.before_commands(self.raw, None)

    def _drop(self) -> None:
        if self._cursor is not None:
            self._cursor.cut_off()
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
